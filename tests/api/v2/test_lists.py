"""GET /v2/...: lists of tasks and of everything else."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from tests.installation import Installation


def get(api: Installation, path: str) -> Any:
    reply = api.request("GET", path)
    assert reply.status == 200, reply
    return reply.json


def forged_cursor(position: str) -> str:
    """A cursor in the right form with an invalid position."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def hundred(api: Installation) -> Installation:
    with api.runtime.database.atomic():
        api.runtime.database.execute_sql("DELETE FROM sytq_tasks")
        for number in range(100):
            state = ("queued", "dead", "succeeded", "cancelled")[number % 4]
            ended = "NULL" if state == "queued" else f"'2026-01-01 00:01:{number % 60:02d}.000000'"
            api.runtime.database.execute_sql(
                "INSERT INTO sytq_tasks (id, type, state, payload, created_at, finished_at) VALUES"
                f" ('00000000-0000-7000-8000-{number:012d}', 'default', '{state}', '{{\"n\": {number}}}',"
                f" '2026-01-01 00:00:{number % 7:02d}.000000', {ended})"
            )
    return api


def test_pages_are_followed_by_link_and_by_cursor(hundred: Installation) -> None:
    seen: list[str] = []
    path = "/v2/tasks?limit=30&q=created%3A2026-01-01&total=true"
    for number in range(4):
        reply = hundred.request("GET", path)
        seen += [task["id"] for task in reply.json["tasks"]]
        if number == 0:
            assert (reply.json["total"], reply.json["total_is_exact"]) == (100, True)
            assert reply.json["searched_to"] is None
        if number == 3:
            assert "link" not in reply.headers and reply.json["next"] is None
        else:
            link = re.fullmatch(r'<(/v2/tasks\?[^>]+)>; rel="next"', reply.headers["link"])
            assert link and f"cursor={reply.json['next']}" in link[1]
            path = link[1]
    assert len(seen) == len(set(seen)) == 100


def test_a_query_finds_payload_fields(hundred: Installation) -> None:
    (task,) = get(hundred, "/v2/tasks?q=payload.n:41")["tasks"]
    assert (task["state"], task["queue"], task["created_at"]) == ("dead", "default", "2026-01-01T00:00:06.000Z")
    assert "payload" not in task and "result" not in task
    assert len(get(hundred, "/v2/tasks?q=payload.n:%3E%3D90+-state:queued&limit=50")["tasks"]) == 8


def test_dead_tasks_are_listed(hundred: Installation) -> None:
    assert get(hundred, "/v2/dead?total=true")["total"] == 25
    assert get(hundred, "/v2/dead?q=payload.n:%3C10")["tasks"][0]["state"] == "dead"
    assert get(hundred, "/v2/dead?q=state:cancelled&total=true")["total"] == 25
    assert get(hundred, "/v2/dead/unreadable") == {"messages": [], "next": None}
    assert hundred.request("GET", "/v2/dead?q=state:queued").status == 400


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("q=colour:red", "q", "'colour' is not a field"),
        ("q=state:pending", "q", "valid: queued, scheduled"),
        ("q=%ED%A0%80:1", "q", ""),
        ("q=a&q=b", "q", "given more than once"),
        ("limit=0", "limit", "whole number from 1"),
        ("limit=201", "limit", "whole number from 1 to 200"),
        ("limit=9999999999999999999999", "limit", "whole number"),
        ("cursor=x", "cursor", "is no cursor"),
        ("cursor=%00%FF", "cursor", "is no cursor"),
        ("cursor=YzIwMjYtMDEtMDEgMDA6MDA6MDAvJyBPUiAxPTE", "cursor", "is no cursor"),
        (f"cursor={forged_cursor('c9999-99-99 99:99:99/x')}", "cursor", "is no cursor"),
        (f"cursor={forged_cursor('c0000-01-01 00:00:00/x')}", "cursor", "is no cursor"),
        (f"cursor={forged_cursor('c2026-02-30 00:00:00.5/x')}", "cursor", "is no cursor"),
        ("total=maybe", "total", "valid: true, false"),
        ("limt=5", "limt", "is not a parameter here; valid: q, limit, cursor, total"),
    ],
)
def test_a_bad_parameter_is_a_problem_that_names_it(hundred: Installation, query: str, field: str, says: str) -> None:
    reply = hundred.request("GET", f"/v2/tasks?{query}")
    assert (reply.status, reply.headers["content-type"]) == (400, "application/problem+json")
    assert reply.json["errors"][0]["field"] == field and says in reply.json["errors"][0]["message"]


def test_a_bad_query_is_400_with_its_position(hundred: Installation) -> None:
    problem = hundred.request("GET", "/v2/tasks?q=state:dead+colour:red").json
    assert (problem["type"], problem["errors"][0]["position"]) == ("urn:sytq:problem:invalid-query", 11)


def test_a_cursor_of_another_order_is_refused(hundred: Installation) -> None:
    cursor = get(hundred, "/v2/tasks?limit=1")["next"]
    assert hundred.request("GET", f"/v2/tasks?q=state:dead&cursor={cursor}").status == 400


def test_types_come_with_their_schemas(api: Installation) -> None:
    types = {entry["type"]: entry for entry in get(api, "/v2/types")["types"]}
    assert types["webhook"]["payload_schema"]["properties"]["url"]["type"] == "string"
    assert types["bulk"]["internal"] and types["llm.dead"]["internal"] and not types["llm"]["internal"]
    assert "/" not in str({name: entry["queue"] for name, entry in types.items()})


def test_queues_workers_and_schedules_are_listed(api: Installation) -> None:
    queues = {entry["queue"]: entry for entry in get(api, "/v2/queues")["queues"]}
    assert {"default", "llm", "webhook", "bulk"} <= set(queues)
    assert [level["priority"] for level in queues["llm"]["priorities"]] == ["urgent", "high", "normal", "low"]
    assert get(api, "/v2/workers") == {"workers": []}
    (schedule,) = get(api, "/v2/schedules")["schedules"]
    assert (schedule["name"], schedule["type"], schedule["paused"]) == ("cleanup", "cleanup", None)


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/nothing", "/v2/tasks/nosuch", "/v2/tasks/%00", "/v2/tasks/a%2Fb"])
def test_a_missing_resource_is_a_404_problem(api: Installation, path: str) -> None:
    reply = api.request("GET", path)
    assert (reply.status, reply.json["type"]) == (404, "urn:sytq:problem:not-found")
    assert reply.headers["content-type"] == "application/problem+json"


def test_another_method_is_a_405_problem(api: Installation) -> None:
    reply = api.request("PUT", "/v2/tasks", {})
    assert (reply.status, reply.json["type"]) == (405, "urn:sytq:problem:method-not-allowed")
    assert reply.headers["allow"]


def test_spend_is_summed(api: Installation) -> None:
    for day in (1, 2):
        api.runtime.database.execute_sql(
            "INSERT INTO sytq_spend (task_id, token, number, step, type, provider, model, day, outcome, reserved, cost,"
            " prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, began_at) VALUES"
            f" ('{day}', 1, 1, 'node-0', 'llm', 'p', 'm', '2026-07-0{day}', 'ok', 0,"
            " 2000000000000, 10, 0, 0, 0, '2026-07-01 00:00:00')"
        )
    one = {"calls": 2, "prompt": 20, "cached": 0, "completion": 0, "reasoning": 0, "unknown": 0}
    answer = get(api, "/v2/spend?by=model")
    assert (answer["by"], answer["currency"]) == ("model", "USD")
    (summed,) = answer["sums"]
    assert float(summed.pop("cost")) == 4
    assert summed == one | {"provider": "p", "model": "m"}
    assert [entry["day"] for entry in get(api, "/v2/spend?since=2026-07-02")["sums"]] == ["2026-07-02"]


@pytest.mark.parametrize(
    ("query", "field"), [("by=colour", "by"), ("since=July", "since"), ("limit=0", "limit"), ("b=1", "b")]
)
def test_a_bad_spend_parameter_is_named(api: Installation, query: str, field: str) -> None:
    reply = api.request("GET", f"/v2/spend?{query}")
    assert (reply.status, reply.json["errors"][0]["field"]) == (400, field)
