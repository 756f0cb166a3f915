"""Keys and Idempotency-Keys on /v2: each owner sees and changes only its own tasks."""

from __future__ import annotations

import concurrent.futures
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from tests.installation import BUILT_IN, Installation, Reply
from tests.servers import RedisServer

TASK = {"type": "webhook", "payload": {"url": "http://example.com/"}}


@pytest.fixture(scope="module")
def guarded(folder: Path, redis_server: RedisServer) -> Iterator[Installation]:
    url = f"sqlite:///{folder / 'access.db'}"
    settings = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    made = Installation(folder, url, redis_server.url, **BUILT_IN, **settings)
    try:
        made.start_api()
        yield made
    finally:
        made.close()


def key(api: Installation, owner: str, *scopes: str, **grant: Any) -> dict[str, str]:
    Ledger(api.runtime.database)  # binds the models
    _, text = ApiKeys(api.runtime.database).create(
        owner, owner, Grant(scopes or ("submit", "read"), **grant), by="test"
    )
    return {"Authorization": f"Bearer {text}"}


def submit(api: Installation, headers: dict[str, str], path: str = "/v2/tasks", body: Any = None) -> Reply:
    return api.request("POST", path, body or TASK, headers)


def test_lists_show_only_the_owners_tasks_for_any_query(guarded: Installation) -> None:
    ours, theirs, admin = key(guarded, "us"), key(guarded, "them"), key(guarded, "root", "admin")
    mine = submit(guarded, ours).json["id"]
    other = submit(guarded, theirs).json["id"]
    for query in ("", "?q=owner:them", "?q=type:webhook", "?total=true"):
        shown = guarded.request("GET", f"/v2/tasks{query}", headers=ours)
        assert shown.status == 200
        assert other not in shown.body.decode()
    assert mine in guarded.request("GET", "/v2/tasks", headers=ours).body.decode()
    everything = guarded.request("GET", "/v2/tasks", headers=admin).body.decode()
    assert mine in everything and other in everything
    assert guarded.request("GET", "/v2/tasks?q=owner:them&total=true", headers=ours).json["total"] == 0


def test_every_operation_on_a_task_of_another_owner_is_404(guarded: Installation) -> None:
    task_id = submit(guarded, key(guarded, "victim")).json["id"]
    stranger = key(guarded, "stranger", "submit", "read", "operate")
    unknown = str(uuid.uuid4())
    for method, path in (
        ("GET", "/v2/tasks/{}"),
        ("GET", "/v2/tasks/{}/events"),
        ("GET", "/v2/tasks/{}/tree"),
        ("DELETE", "/v2/tasks/{}"),
        ("POST", "/v2/tasks/{}/cancel"),
        ("POST", "/v2/tasks/{}/retry"),
        ("POST", "/v2/tasks/{}/reschedule"),
    ):
        body = {"delay": "1h"} if path.endswith("reschedule") else {} if method == "POST" else None
        replies = [guarded.request(method, path.format(one), body, stranger) for one in (task_id, unknown)]
        assert [reply.status for reply in replies] == [404, 404], path
    owner = key(guarded, "victim", "operate")
    assert guarded.request("POST", f"/v2/tasks/{task_id}/cancel", {}, owner).status in (200, 202)
    [(who, about)] = guarded.rows("SELECT who, about FROM sytq_audit WHERE what = 'POST' ORDER BY id DESC LIMIT 1")
    assert who.startswith("victim (")
    assert task_id in about


def test_changes_need_operate_and_dead_letters_need_admin(guarded: Installation) -> None:
    plain = key(guarded, "plain")
    task_id = submit(guarded, plain).json["id"]
    refused = guarded.request("POST", f"/v2/tasks/{task_id}/cancel", {}, plain)
    assert refused.status == 403
    assert "'operate'" in refused.body.decode()
    operator = key(guarded, "plain", "submit", "read", "operate")
    bulk = {"action": "cancel", "q": "type:webhook", "dry_run": True}
    assert guarded.request("POST", "/v2/operations", bulk, plain).status == 403
    for method in ("GET", "HEAD"):
        assert guarded.request(method, "/v2/dead/unreadable", headers=operator).status == 403
    assert guarded.request("POST", "/v2/operations", bulk, key(guarded, "root", "admin")).status == 200


def test_an_operation_is_audited_and_a_dry_run_is_not(guarded: Installation) -> None:
    admin = key(guarded, "boss", "admin")
    bulk = {"action": "cancel", "q": "type:webhook payload.n:7"}
    assert guarded.request("POST", "/v2/operations", bulk | {"dry_run": True}, admin).status == 200
    assert guarded.request("POST", "/v2/operations", bulk | {"q": ""}, admin).status == 400
    operation = guarded.request("POST", "/v2/operations", bulk, admin).json["id"]
    noted = guarded.rows("SELECT what, about, detail FROM sytq_audit WHERE who LIKE 'boss (%'")
    assert noted == [("POST", "/v2/operations", f"cancel as {operation}: type:webhook payload.n:7")]


def test_a_type_not_allowed_for_the_key_is_refused(guarded: Installation) -> None:
    only_llm = key(guarded, "narrow", "submit", types=("llm",))
    assert submit(guarded, only_llm).status == 403
    assert submit(guarded, only_llm, "/v2/tasks/batch", {"tasks": [TASK]}).status == 403


@pytest.mark.parametrize("type_name", ["cleanup", "backup", "report", "sync"])
def test_only_admins_submit_installation_wide_types(guarded: Installation, type_name: str) -> None:
    owner = key(guarded, "owner", "submit", "read", "operate", types=(type_name, "webhook"))
    whole: dict[str, Any] = {"type": type_name, "payload": {}}
    for path, body in (
        ("/v2/tasks", whole),
        ("/v2/tasks", TASK | {"then": [whole]}),
        ("/v2/tasks", TASK | {"then": [TASK, whole | {"on_failure": "run"}]}),
        ("/v2/tasks/batch", {"tasks": [TASK, whole]}),
        (f"/jobs?type={type_name}", {}),
        ("/v2/tasks", whole | {"payload": {"nonsense": 1}}),  # its validation errors are not reported either
    ):
        refused = submit(guarded, owner, path, body)
        assert refused.status == 403, (path, body)
        assert f"'{type_name}' works on the whole installation" in refused.body.decode()
    assert not guarded.rows(f"SELECT id FROM sytq_tasks WHERE type = '{type_name}' AND owner = 'owner'")
    admin = key(guarded, "root", "admin")
    assert submit(guarded, admin, body=TASK | {"then": [whole]}).status == 202
    listed = guarded.request("GET", "/v2/types", headers=owner).json["types"]
    assert {one["type"] for one in listed if one["admin_only"]} == {"cleanup", "backup", "report", "sync"}


def test_a_repeated_batch_counts_and_is_accepted_once(guarded: Installation) -> None:
    headers = key(guarded, "batcher", daily_tasks=5) | {"Idempotency-Key": str(uuid.uuid4())}
    batch = {"tasks": [TASK, TASK, TASK]}
    first = submit(guarded, headers, "/v2/tasks/batch", batch)
    assert first.status == 202
    assert first.headers["ratelimit"].startswith('"tasks";r=2;')
    again = submit(guarded, headers, "/v2/tasks/batch", batch)
    assert (again.status, again.body) == (202, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    refused = submit(guarded, headers | {"Idempotency-Key": "other"}, "/v2/tasks/batch", batch)
    assert (refused.status, refused.json["type"]) == (429, "urn:sytq:problem:too-many-requests")
    changed = submit(guarded, headers, "/v2/tasks/batch", {"tasks": [TASK]})
    assert changed.status == 422
    assert changed.headers["content-type"].startswith("application/problem+json")


def test_a_repeated_submission_gets_the_same_response(guarded: Installation) -> None:
    headers = key(guarded, "once") | {"Idempotency-Key": "one"}
    unique = TASK | {"unique_key": "order-7"}
    first = submit(guarded, headers, body=unique)
    again = submit(guarded, headers, body=unique)
    assert (again.status, again.body, again.headers["location"]) == (202, first.body, first.headers["location"])
    existing = submit(guarded, headers | {"Idempotency-Key": "two"}, body=unique)
    repeated = submit(guarded, headers | {"Idempotency-Key": "two"}, body=unique)
    assert (existing.status, existing.json["existing"], existing.json["id"]) == (200, True, first.json["id"])
    assert (repeated.status, repeated.body) == (200, existing.body)


def test_unique_keys_are_scoped_to_owners(guarded: Installation) -> None:
    owners = [key(guarded, owner) for owner in ("left", "right", "left:x")]
    # The last two would be equal if owner and key were only concatenated.
    named = [{"type": "default", "unique_key": name} for name in ("x:order-8", "order-8", "order-8")]
    alone = [submit(guarded, headers, body=body) for headers, body in zip(owners, named, strict=True)]
    assert [reply.status for reply in alone] == [202, 202, 202]
    assert len({reply.json["id"] for reply in alone}) == 3
    again = submit(guarded, owners[0], "/v2/tasks/batch", {"tasks": [named[0], named[1]]})
    assert [result["existing"] for result in again.json["results"]] == [True, False]
    assert again.json["results"][0]["id"] == alone[0].json["id"]
    assert again.json["results"][1]["id"] not in {reply.json["id"] for reply in alone}


def test_a_unique_key_of_another_owner_is_409_without_its_task_id(guarded: Installation) -> None:
    first, other, admin = key(guarded, "first"), key(guarded, "second"), key(guarded, "root", "admin")
    row: dict[str, Any] = {"type": "llm", "payload": {"table_name": "valuation_records", "id": 71}}
    mine = row | {"callback": {"url": "http://example.com/"}}
    existing = submit(guarded, first, body=row).json["id"]
    count = "SELECT COUNT(*) FROM sytq_tasks"
    before = guarded.rows(count)
    for headers, body in (
        (other, mine),
        (other | {"Prefer": "wait=5"}, mine),
        (other | {"Idempotency-Key": "row-71"}, mine),
        (other, row | {"then": [TASK]}),  # and no dependency on a task of another owner
        (other, TASK | {"then": [row]}),
    ):
        refused = submit(guarded, headers, body=body)
        assert (refused.status, refused.json["type"]) == (409, "urn:sytq:problem:unique-key-taken"), body
        assert existing not in refused.body.decode()
    old = submit(guarded, other, "/api/tasks/llm", row["payload"])
    assert (old.status, old.json["code"]) == (409, 409)
    job = submit(guarded, other, "/jobs?type=llm", row["payload"])
    assert (job.status, list(job.json)) == (409, ["error"])
    assert submit(guarded, other, "/v2/tasks/batch", {"tasks": [row, {"type": "nosuch"}]}).status == 409
    assert guarded.rows(count) == before
    for sees in (first, admin):
        found = submit(guarded, sees, body=row)
        assert (found.status, found.json["existing"], found.json["id"]) == (200, True, existing)
    # A refusal leaves no trace: the same request is accepted once the other task has ended.
    assert guarded.request("POST", f"/v2/tasks/{existing}/cancel", {}, admin).status == 200
    assert submit(guarded, other | {"Idempotency-Key": "row-71"}, body=mine).status == 202


def test_a_taken_unique_key_refuses_only_its_task_of_a_batch(guarded: Installation) -> None:
    first, other = key(guarded, "early"), key(guarded, "late", daily_tasks=5)
    rows = [{"type": "llm", "payload": {"table_name": "valuation_records", "id": n}} for n in (81, 82)]
    existing = submit(guarded, first, body=rows[0]).json["id"]
    headers = other | {"Idempotency-Key": "rows"}
    mixed = submit(guarded, headers, "/v2/tasks/batch", {"tasks": [TASK, *rows]})
    assert (mixed.status, mixed.json["accepted"], mixed.json["refused"]) == (207, 2, 1)
    taken = mixed.json["results"][1]["error"]["errors"]
    assert [error["field"] for error in taken] == ["unique_key"]
    assert existing not in mixed.body.decode()
    assert mixed.headers["ratelimit"].startswith('"tasks";r=3;')
    again = submit(guarded, headers, "/v2/tasks/batch", {"tasks": [TASK, *rows]})
    assert (again.status, again.body) == (207, mixed.body)


def test_a_taken_unique_key_does_not_fail_concurrent_submissions(guarded: Installation) -> None:
    first, other = key(guarded, "holder"), key(guarded, "many")
    row: dict[str, Any] = {"type": "llm", "payload": {"table_name": "valuation_records", "id": 91}}
    assert submit(guarded, first, body=row).status == 202
    bodies = [row if n % 3 == 0 else TASK | {"unique_key": f"n{n}"} for n in range(60)]
    with concurrent.futures.ThreadPoolExecutor(30) as pool:  # many share a transaction
        replies = list(pool.map(lambda body: submit(guarded, other, body=body), bodies))
    assert [reply.status for reply in replies] == [409 if body is row else 202 for body in bodies]
    assert guarded.rows("SELECT COUNT(*) FROM sytq_tasks WHERE owner = 'many'") == [(40,)]
    good = [reply.json["id"] for reply in replies if reply.status == 202]
    assert all(guarded.request("GET", f"/v2/tasks/{task_id}", headers=other).status == 200 for task_id in good)
