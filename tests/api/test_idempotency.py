"""One Idempotency-Key is one submission, for concurrent and later repeats and across crashes."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import itertools
import uuid
from pathlib import Path
from typing import Any

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from sytq.ledger.values import utcnow
from tests.installation import Installation, Reply
from tests.servers import MySQLServer, RedisServer, poll

ROWS = itertools.count(9_000_000)


def send(api: Installation, key: str, path: str = "/api/v1/tasks", body: Any = None, headers: Any = None) -> Reply:
    body = body or {"url": "http://example.com/"}
    return api.request("POST", path, body, {"Idempotency-Key": key} | (headers or {}))


def tasks(api: Installation) -> int:
    return int(api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/tasks", {"url": "http://example.com/"}),
        ("/api/v1/tasks/llm", {"prompt": "once"}),
        ("/api/tasks/llm", {"table_name": "valuation_records", "id": 0}),
        ("/jobs?type=default&priority=low", {"n": 1}),
        ("/v2/tasks", {"type": "default"}),
        ("/v2/tasks/batch", {"tasks": [{"type": "default"}]}),
        ("/v2/operations", {"action": "delete", "q": "id:nosuch"}),
    ],
)
def test_a_repeated_request_gets_the_first_response(api: Installation, path: str, body: dict[str, Any]) -> None:
    body = body | ({"id": next(ROWS)} if "id" in body else {})
    key, before = str(uuid.uuid4()), tasks(api)
    records = "SELECT COUNT(*) FROM valuation_records"
    rows = api.rows(records)[0][0]
    first = send(api, key, path, body)
    again = send(api, f'"{key}"', path, body)  # the draft's form
    assert first.status == (200 if path.startswith("/api") else 202)
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert tasks(api) == before + 1
    assert api.rows(records)[0][0] - rows == (1 if "prompt" in body else 0)


@pytest.mark.parametrize("spaces", ['"{} "', '" {}"', '"{}  x "', '"   "'])
def test_a_key_with_leading_or_trailing_space_is_refused(api: Installation, spaces: str) -> None:
    key, before = str(uuid.uuid4()), tasks(api)
    assert send(api, key).status == 200
    refused = send(api, spaces.format(key))
    assert (refused.status, "no space first or last" in refused.json["error"]) == (400, True)
    assert send(api, f'"{key}  x"').status == 200
    assert tasks(api) == before + 2


def test_concurrent_repeats_on_two_processes_are_one_task(make_api: Any, database_url: str) -> None:
    api = make_api(database_url, SYTQ_API__WORKERS="2")
    before = tasks(api)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda _: send(api, "at once"), range(50)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    assert tasks(api) == before + 1


def test_concurrent_keys_are_one_task_each(api: Installation) -> None:
    before, keys = tasks(api), [str(uuid.uuid4()) for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda key: send(api, key), keys * 2))
    assert {reply.status for reply in replies} == {200}
    assert tasks(api) == before + 50


def test_a_key_reused_for_another_request_is_422(api: Installation) -> None:
    key = str(uuid.uuid4())
    assert send(api, key).status == 200
    other = send(api, key, body={"url": "http://example.com/other"})
    assert (other.status, list(other.json)) == (422, ["error"])
    envelope = send(api, key, "/api/tasks/llm", {"table_name": "valuation_records", "id": next(ROWS)})
    assert (envelope.status, envelope.json["code"]) == (422, 422)
    problem = send(api, key, "/v2/tasks", {"type": "default"})
    assert (problem.status, problem.json["type"]) == (422, "urn:sytq:problem:idempotency-key-reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "ä"])
def test_an_invalid_key_is_400(api: Installation, key: str) -> None:
    assert send(api, key).status == 400


def test_a_refused_request_does_not_consume_its_key(api: Installation) -> None:
    key = str(uuid.uuid4())
    assert send(api, key, body={"url": "no url"}).status == 400
    assert send(api, key).status == 200


def test_a_repeat_during_the_first_request_is_409(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("flight"), SYTQ_DATABASE__TIMEOUT="60s")
    assert send(api, "warm").status == 200
    own_mysql.pause()
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            both = [pool.submit(send, api, "flight", "/v2/tasks", {"type": "default"}) for _ in range(2)]
            done, waiting = concurrent.futures.wait(both, return_when=concurrent.futures.FIRST_COMPLETED)
            refused = done.pop().result()
            assert (refused.status, refused.headers["retry-after"]) == (409, "1")
            assert refused.json["type"] == "urn:sytq:problem:idempotency-key-in-use"
            own_mysql.resume()
            first = waiting.pop().result()
    finally:
        own_mysql.resume()
    assert first.status == 202
    assert send(api, "flight", "/v2/tasks", {"type": "default"}).body == first.body
    assert tasks(api) == 2


def test_a_key_survives_a_restart_and_the_loss_of_redis(
    make_api: Any, tmp_path: Any, redis_server: RedisServer
) -> None:
    api = make_api()
    first = send(api, "lasting")
    assert api.gunicorn.terminate() == 0
    with redis_server.client() as client:
        client.flushall()
    again = send(make_api(), "lasting")
    assert (again.status, again.body) == (200, first.body)


def test_a_key_expires_after_a_day(api: Installation) -> None:
    key = str(uuid.uuid4())
    first = send(api, key)
    long_ago = (utcnow() - dt.timedelta(hours=24, seconds=1)).isoformat(" ", "microseconds")
    with api.runtime.database.connection_context():
        api.runtime.database.execute_sql(
            f"UPDATE sytq_idempotency SET created_at = '{long_ago}' WHERE idempotency_key = '{key}'"
        )
    again = send(api, key)
    assert again.status == 200
    assert again.body != first.body
    assert send(api, key).body == again.body


def test_keys_are_scoped_to_owners_and_a_repeat_uses_no_quota(make_api: Any) -> None:
    api = make_api(SYTQ_AUTH__ENABLED="true")
    Ledger(api.runtime.database)  # binds the models
    made = [ApiKeys(api.runtime.database).create(owner, owner, Grant(daily_tasks=5), by="test") for owner in ("a", "b")]
    mine, theirs = ({"Authorization": f"Bearer {text}"} for _, text in made)
    first, other = send(api, "shared", headers=mine), send(api, "shared", headers=theirs)
    assert (first.status, other.status) == (200, 200)
    assert first.body != other.body
    assert first.headers["ratelimit"].startswith('"tasks";r=4;')
    assert {send(api, "shared", headers=mine).body for _ in range(7)} == {first.body}
    assert send(api, "next", headers=mine).headers["ratelimit"].startswith('"tasks";r=3;')


def test_a_repeat_returns_the_existing_task_again(api: Installation) -> None:
    body = {"table_name": "valuation_records", "id": next(ROWS)}
    existing = send(api, str(uuid.uuid4()), "/api/tasks/llm", body)
    key = str(uuid.uuid4())
    first, again = (send(api, key, "/api/tasks/llm", body) for _ in range(2))
    assert existing.body == first.body == again.body


def test_a_key_is_usable_again_after_a_database_outage(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("dead"), SYTQ_DATABASE__TIMEOUT="1s")
    assert send(api, "warm").status == 200
    own_mysql.kill()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        assert {reply.status for reply in pool.map(lambda _: send(api, "later"), range(5))} <= {503, 409}
    own_mysql.start()
    poll(lambda: send(api, "later").status == 200)
    assert tasks(api) == 2


def test_a_repeated_batch_is_409_if_one_of_its_types_is_gone(make_api: Any, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "extra.py").write_text(
        "from pydantic import BaseModel\nfrom sytq import task\nclass Nothing(BaseModel): pass\n"
        "@task('extra', payload=Nothing)\ndef extra(ctx, payload): pass\n"
    )
    batch = {"tasks": [{"type": "extra"}, {"type": "default"}]}
    api = make_api(SYTQ_PLUGINS__PATHS=f'["{more}"]')
    assert send(api, "batch", "/v2/tasks/batch", batch).status == 202
    assert api.gunicorn.terminate() == 0
    again = send(make_api(), "batch", "/v2/tasks/batch", batch)
    assert (again.status, again.json["type"]) == (409, "urn:sytq:problem:conflict")
    assert "2 tasks" in again.json["detail"]
