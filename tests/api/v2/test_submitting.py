"""POST /v2/tasks and /v2/tasks/batch: what is accepted, and how the rest is refused."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.installation import Installation, Reply

HOOK = {"url": "http://example.com/"}


def post(api: Installation, body: Any, path: str = "/v2/tasks", **headers: str) -> Reply:
    return api.request("POST", path, body, headers)


def stored(api: Installation, task_id: str, *columns: str) -> tuple[Any, ...]:
    [row] = api.rows(f"SELECT {', '.join(columns)} FROM sytq_tasks WHERE id = '{task_id}'")
    return row


def test_a_task_with_every_field_is_accepted(api: Installation) -> None:
    run_at = "2026-12-24T18:00:00.5+01:00"
    reply = post(
        api,
        {
            "type": "webhook",
            "payload": HOOK,
            "priority": "high",
            "run_at": run_at.replace("2026", str(dt.date.today().year + 1)),
            "unique_key": "order-7",
            "metadata": {"customer": "Zoë", "n": 1},
            "callback": {"url": "http://example.com/done", "headers": {"X-A": "b"}},
        },
    )
    assert reply.status == 202, reply
    task_id = reply.json["id"]
    assert reply.json == {
        "id": task_id, "type": "webhook", "state": "scheduled", "existing": False, "href": f"/v2/tasks/{task_id}",
    }  # fmt: skip
    assert reply.headers["location"] == f"/v2/tasks/{task_id}"
    priority, state, key, metadata, callback = stored(
        api, task_id, "priority", "state", "unique_key", "metadata", "callback"
    )
    assert (priority, state, key) == ("high", "scheduled", "webhook::order-7")
    assert json.loads(metadata) == {"customer": "Zoë", "n": 1}
    assert json.loads(callback) == {"url": "http://example.com/done", "headers": {"X-A": "b"}}
    shown = api.request("GET", reply.headers["location"]).json
    assert shown["scheduled_at"].endswith("-12-24T17:00:00.500Z")
    assert (shown["metadata"], shown["callback_url"]) == ({"customer": "Zoë", "n": 1}, "http://example.com/done")
    assert shown["payload"] == HOOK


def test_a_delay_counts_from_now(api: Installation) -> None:
    task_id = post(api, {"type": "default", "delay": "1h"}).json["id"]
    due = dt.datetime.fromisoformat(api.request("GET", f"/v2/tasks/{task_id}").json["scheduled_at"])
    assert abs(due - dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)) < dt.timedelta(minutes=1)
    now = post(api, {"type": "default", "delay": 0}).json
    assert now["state"] == "queued"


def test_a_unique_key_returns_the_existing_task(api: Installation) -> None:
    body = {"type": "default", "unique_key": "only-one"}
    first, again = post(api, body), post(api, body)
    assert (first.status, again.status) == (202, 200)
    assert again.json["id"] == first.json["id"] and again.json["existing"] is True
    assert again.headers["location"] == first.headers["location"]
    assert post(api, {"type": "webhook", "payload": HOOK, "unique_key": "only-one"}).status == 202  # of another type


@pytest.mark.parametrize(
    ("fields", "named", "says"),
    [
        ({}, "type", "Field required"),
        ({"type": "nosuch"}, "type", "'nosuch' is not a task type; valid: "),
        ({"type": 7}, "type", "valid string"),
        ({"type": "llm.dead", "payload": {}}, "type", "by the service alone"),
        ({"type": "bulk", "payload": {}}, "type", "by the service alone"),
        ({"type": "webhook"}, "payload.url", "Field required"),
        ({"type": "webhook", "payload": []}, "payload", "valid dictionary"),
        ({"type": "webhook", "payload": {"url": "ftp://x"}}, "payload.url", "the URL must start with"),
        ({"type": "webhook", "payload": HOOK | {"x": 1}}, "payload.x", "not permitted"),
        ({"type": "llm", "payload": {"table_name": "valuation_records", "id": 2**63}}, "payload.id", "less than"),
        ({"type": "default", "priority": "top"}, "priority", "'urgent', 'high', 'normal' or 'low'"),
        ({"type": "default", "delay": "soon"}, "delay", "valid: a duration"),
        ({"type": "default", "delay": -1}, "delay", "negative"),
        ({"type": "default", "delay": 2**63}, "delay", "too long"),
        ({"type": "default", "delay": "99999h"}, "delay", "more than ten years"),
        ({"type": "default", "run_at": "tomorrow"}, "run_at", "must be a time with its offset"),
        ({"type": "default", "run_at": 17}, "run_at", "must be a time with its offset"),
        ({"type": "default", "run_at": "2026-01-01T00:00:00"}, "run_at", "must be a time with its offset"),
        ({"type": "default", "run_at": "2026-02-30T00:00:00Z"}, "run_at", "not an existing time"),
        ({"type": "default", "run_at": "9999-12-31T23:59:59-23:59"}, "run_at", "not an existing time"),
        ({"type": "default", "run_at": "2999-01-01T00:00:00Z"}, "run_at", "more than ten years"),
        ({"type": "default", "run_at": "2027-01-01T00:00:00Z", "delay": 1}, "delay", "either delay or run_at"),
        ({"type": "default", "unique_key": ""}, "unique_key", "at least 1 character"),
        ({"type": "default", "unique_key": "a b"}, "unique_key", "match pattern"),
        ({"type": "default", "unique_key": "x" * 151}, "unique_key", "at most 150"),
        ({"type": "llm", "payload": {"table_name": "valuation_records", "id": 1}, "unique_key": "x"}, "unique_key",
         "have a key of their own"),
        ({"type": "default", "metadata": {"x": "y" * 4096}}, "metadata", "larger than 4096 bytes"),
        ({"type": "default", "metadata": "x"}, "metadata", "valid dictionary"),
        ({"type": "default", "callback": {}}, "callback.url", "Field required"),
        ({"type": "default", "callback": {"url": "http://10.0.0.1/"}}, "callback.url", "not a public address"),
        ({"type": "default", "callback": {"url": "http://localhost/"}}, "callback.url", "not a public address"),
        ({"type": "default", "callback": {"url": "file:///etc/passwd"}}, "callback.url", "must start with http"),
        ({"type": "default", "callback": {"url": "http://a.com", "headers": {"A B": "c"}}}, "callback.headers",
         "not a header name"),
        ({"type": "default", "callback": {"url": "http://a.com", "headers": {"A": "b\r\nC: d"}}}, "callback.headers",
         "without line breaks"),
        ({"type": "default", "callback": {"url": "http://a.com", "headers": {"A": "b" * 5000}}}, "callback.headers",
         "longer than 4096"),
        ({"type": "default", "priorty": "high"}, "priorty", "not permitted"),
    ],
)  # fmt: skip
def test_an_invalid_submission_is_a_problem_that_names_the_field(
    api: Installation, fields: dict[str, Any], named: str, says: str
) -> None:
    before = api.rows("SELECT COUNT(*) FROM sytq_tasks")
    reply = post(api, fields)
    assert (reply.status, reply.headers["content-type"]) == (400, "application/problem+json")
    assert reply.json["type"] == "urn:sytq:problem:invalid-request"
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert reply.json["errors"][0]["field"] == named
    assert says in reply.json["errors"][0]["message"] and says in reply.json["detail"]
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks") == before


def test_all_invalid_fields_are_named_at_once(api: Installation) -> None:
    reply = post(api, {"type": 1, "priority": "x", "unique_key": "", "more": 1})
    assert {error["field"] for error in reply.json["errors"]} == {"type", "priority", "unique_key", "more"}


def test_a_batch_has_a_result_for_each_task(api: Installation) -> None:
    good: list[Any] = [{"type": "default", "payload": {"n": n}} for n in range(3)]
    reply = post(api, {"tasks": good}, "/v2/tasks/batch")
    assert (reply.status, reply.json["accepted"], reply.json["refused"]) == (202, 3, 0)
    for n, result in enumerate(reply.json["results"]):
        assert api.stored(result["id"]) == ("default", "queued", {"n": n})
    mixed = [
        {"type": "nosuch"},
        *good,
        7,
        {"type": "default", "unique_key": "u"},
        {"type": "default", "unique_key": "u"},
    ]
    reply = post(api, {"tasks": mixed}, "/v2/tasks/batch")
    assert (reply.status, reply.json["accepted"], reply.json["refused"]) == (207, 5, 2)
    first, *_, seventh, one, other = reply.json["results"]
    assert first["error"]["errors"][0]["field"] == "type" and seventh["error"]["errors"][0]["field"] == "task"
    assert one["id"] == other["id"] and (one["existing"], other["existing"]) == (False, True)
    reply = post(api, {"tasks": [{"type": "nosuch"}, {}]}, "/v2/tasks/batch")
    assert reply.status == 400 and [e["field"] for e in reply.json["errors"]] == ["tasks.0.type", "tasks.1.type"]


def test_a_batch_has_at_most_a_thousand_tasks(api: Installation) -> None:
    before = api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0]
    reply = post(api, {"tasks": [{"type": "default"}] * 1000}, "/v2/tasks/batch")
    assert (reply.status, reply.json["accepted"], len({r["id"] for r in reply.json["results"]})) == (202, 1000, 1000)
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0] == before + 1000
    for tasks in ([], [{"type": "default"}] * 1001, "x", None):
        assert post(api, {"tasks": tasks}, "/v2/tasks/batch").status == 400


def test_request_id_and_trace_are_returned_and_stored(api: Installation) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"X-Request-Id": "caller-9", "traceparent": trace}
    for path, body in (
        ("/v2/tasks", {"type": "default"}),
        ("/api/v1/tasks", HOOK),
        ("/api/tasks/llm", {"table_name": "valuation_records", "id": 909}),
    ):
        reply = api.request("POST", path, body, headers)
        assert (reply.headers["x-request-id"], reply.headers["traceparent"]) == ("caller-9", trace)
    found = api.rows(
        "SELECT type FROM sytq_tasks WHERE request_id = 'caller-9' AND traceparent = ?".replace("?", f"'{trace}'")
    )
    assert sorted(found) == [("default",), ("llm",), ("webhook",)]
    assert len(api.request("GET", "/v2/tasks?q=request:caller-9").json["tasks"]) == 3
    strange = post(api, {"type": "default"}, traceparent=f"00-{'0' * 32}-00f067aa0ba902b7-01")
    assert "traceparent" not in strange.headers
    assert api.rows(f"SELECT traceparent FROM sytq_tasks WHERE id = '{strange.json['id']}'") == [(None,)]


def test_unique_keys_that_differ_in_a_trailing_space_differ(start: Callable[..., Installation]) -> None:
    service = start()
    tasks = [service.post_task("lonely", name) for name in ("space", "space ", "space  ")]
    assert len(set(tasks)) == 3
    again = service.post("/v2/tasks", {"type": "lonely", "payload": {"journal": "-", "name": "space "}})
    assert (again.status, again.json["id"]) == (200, tasks[1])
    for key in ("order", "order "):
        hook = {"url": "http://example.com/", "ordering_key": key}
        assert service.post("/v2/tasks", {"type": "webhook", "payload": hook}).status == 202
    assert service.rows("SELECT COUNT(DISTINCT ordering_key) FROM sytq_tasks") == [(2,)]
