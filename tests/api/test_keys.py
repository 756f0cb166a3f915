"""API keys: verified by their hash, limited by scope, type, rate and daily quota, and kept apart by owner."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import itertools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from sytq.ledger.values import utcnow
from tests.installation import BUILT_IN, Installation, Reply
from tests.servers import MySQLServer, RedisServer, poll

ROWS = itertools.count(1)
PROMPT = {"url": "http://example.com/"}
#: Seconds between two logins that may fail: more frequent ones are throttled.
PATIENT = 0.5


@pytest.fixture(scope="module")
def guarded(folder: Path, module_database_url: str, redis_server: RedisServer) -> Iterator[Installation]:
    settings = {
        "SYTQ_AUTH__ENABLED": "true",
        "SYTQ_AUTH__USERS__ADMIN": "admin123",
        "SYTQ_REDIS__PREFIX": uuid.uuid4().hex,
        "SYTQ_API__WORKERS": "2",
    }
    own = folder / module_database_url.partition(":")[0]  # the engine
    own.mkdir()
    api = Installation(own, module_database_url, redis_server.url, **BUILT_IN, **settings)
    try:
        api.start_api()
        yield api
    finally:
        api.close()


def keys_of(api: Installation) -> ApiKeys:
    Ledger(api.runtime.database)  # binds the models
    return ApiKeys(api.runtime.database)


def made(api: Installation, owner: str = "shop", **grant: Any) -> tuple[str, dict[str, str]]:
    row, text = keys_of(api).create(f"key of {owner}", owner, Grant(**grant), by="test")
    return row.id, bearer(text)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def submit(api: Installation, headers: dict[str, str]) -> Reply:
    return api.request("POST", "/api/v1/tasks", PROMPT, headers)


def test_a_key_submits_as_its_owner_and_its_secret_is_not_stored(guarded: Installation) -> None:
    key_id, headers = made(guarded, "till-7")
    reply = submit(guarded, headers)
    assert reply.status == 200
    [(owner,)] = guarded.rows(f"SELECT owner FROM sytq_tasks WHERE id = '{reply.json['task_id']}'")
    assert owner == "till-7"
    secret = headers["Authorization"].rpartition("_")[2]
    assert len(secret) == 64
    stored = guarded.rows(f"SELECT * FROM sytq_api_keys WHERE id = '{key_id}'")
    assert stored and secret not in str(stored)
    assert secret not in guarded.gunicorn.text()
    poll(lambda: guarded.rows(f"SELECT last_used_at FROM sytq_api_keys WHERE id = '{key_id}'")[0][0])


@pytest.mark.parametrize("path", ["/api/tasks/{}", "/api/tasks"])
def test_a_task_of_another_owner_is_404(guarded: Installation, path: str) -> None:
    _, ours = made(guarded, "us")
    _, sisters = made(guarded, "us")
    _, theirs = made(guarded, "them")
    _, admins = made(guarded, "root", scopes=("admin",))
    task_id = submit(guarded, ours).json["task_id"]
    address = path.format(task_id)
    for headers in (ours, sisters, admins):
        reply = guarded.request("GET", address, headers=headers)
        assert reply.status == 200
        assert task_id in reply.body.decode()
    reply = guarded.request("GET", address, headers=theirs)
    assert task_id not in reply.body.decode()
    unknown = guarded.request("GET", path.format(task_id[:-4] + "ffff"), headers=theirs)
    assert (reply.status, reply.body) == (unknown.status, unknown.body)
    assert reply.status == (404 if "{}" in path else 200)


def test_a_missing_scope_or_type_is_403_and_named(guarded: Installation) -> None:
    _, reader = made(guarded, scopes=("read",))
    _, sender = made(guarded, scopes=("submit",), types=("webhook",))
    refused = submit(guarded, reader)
    assert refused.status == 403
    assert "'submit'" in refused.json["error"]
    assert guarded.request("GET", "/api/tasks", headers=reader).status == 200
    assert guarded.request("GET", "/api/tasks", headers=sender).status == 403
    assert submit(guarded, sender).status == 200
    other = guarded.request("POST", "/api/v1/tasks/llm", {"prompt": "x"}, sender)
    assert other.status == 403
    assert "'llm'" in other.json["error"] and "webhook" in other.json["error"]


def test_basic_auth_users_may_see_and_do_everything(guarded: Installation) -> None:
    _, headers = made(guarded, "somebody")
    task_id = submit(guarded, headers).json["task_id"]
    basic = {"Authorization": "Basic YWRtaW46YWRtaW4xMjM="}
    assert guarded.request("GET", f"/api/tasks/{task_id}", headers=basic).status == 200
    assert guarded.request("POST", "/jobs?type=cleanup", {"dry_run": True}, basic).status == 202


def test_a_wrong_expired_or_revoked_key_is_401(guarded: Installation) -> None:
    key_id, headers = made(guarded)
    good = headers["Authorization"]
    _, expired = made(guarded, expires_at=utcnow() - dt.timedelta(seconds=1))
    wrong = bearer(good.removeprefix("Bearer ")[:-1] + ("0" if good[-1] != "0" else "1"))
    unknown = bearer("sytq_" + "0" * 12 + "_" + "0" * 64)
    for refused in (expired, wrong, unknown, bearer("sytq_x_y"), bearer("")):
        assert submit(guarded, refused).status == 401
    assert submit(guarded, wrong).headers["www-authenticate"].startswith('Bearer realm="')
    assert submit(guarded, headers).status == 200
    assert keys_of(guarded).revoke(key_id, by="test")
    poll(lambda: submit(guarded, headers).status == 401, interval=PATIENT)


def test_both_secrets_are_valid_until_the_rotation_grace_ends(guarded: Installation) -> None:
    key_id, first = made(guarded)
    _, text = keys_of(guarded).rotate(key_id, 3600, by="test")
    second = bearer(text)
    assert first != second
    assert [submit(guarded, headers).status for headers in (first, second)] == [200, 200]
    _, text = keys_of(guarded).rotate(key_id, 0, by="test")
    assert submit(guarded, bearer(text)).status == 200
    poll(lambda: [submit(guarded, one).status for one in (first, second)] == [401, 401], interval=PATIENT)
    whats = [what for (what,) in guarded.rows(f"SELECT what FROM sytq_audit WHERE about = '{key_id}' ORDER BY id")]
    assert whats == ["key.create", "key.rotate", "key.rotate"]


def test_a_rate_limit_is_shared_by_processes_and_in_every_response(guarded: Installation) -> None:
    _, headers = made(guarded, rate=(20, 3600))
    first = guarded.request("GET", "/api/tasks", headers=headers)
    assert first.headers["ratelimit-policy"] == '"requests";q=20;w=3600'
    assert first.headers["ratelimit"] == '"requests";r=19;t=3600'
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(guarded.request, "GET", "/api/tasks", None, headers) for _ in range(39)]
    statuses = [one.result().status for one in asked]
    assert (statuses.count(200), statuses.count(429)) == (19, 20)
    refused = submit(guarded, headers)
    assert refused.status == 429
    assert 3500 < int(refused.headers["retry-after"]) <= 3600
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')


def test_a_daily_quota_counts_accepted_tasks_only(guarded: Installation) -> None:
    _, headers = made(guarded, daily_tasks=2)
    assert guarded.request("POST", "/api/v1/tasks", {"url": "x"}, headers).status == 400
    assert submit(guarded, headers).headers["ratelimit-policy"] == '"tasks";q=2;w=86400'
    last = submit(guarded, headers)
    assert last.status == 200
    assert last.headers["ratelimit"].startswith('"tasks";r=0;t=')
    refused = submit(guarded, headers)
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) <= 86400
    assert guarded.request("GET", "/api/tasks", headers=headers).json["data"]["total_count"] >= 2


def test_keys_work_and_quotas_hold_without_redis(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url, SYTQ_AUTH__ENABLED="true")
    _, headers = made(api, rate=(5, 3600), daily_tasks=3)
    assert submit(api, headers).status == 200
    own_redis.kill()
    assert [submit(api, headers).status for _ in range(6)] == [200, 200, 200, 429, 429, 429]


def test_failed_logins_throttle_an_address_but_not_verified_keys(make_api: Any) -> None:
    api = make_api(SYTQ_AUTH__ENABLED="true", SYTQ_AUTH__USERS__ADMIN="right")
    _, known = made(api)
    strangers = [headers for _, headers in (made(api) for _ in range(20))]
    assert submit(api, known).status == 200
    began = time.monotonic()
    wrong = bearer("sytq_" + "1" * 12 + "_" + "0" * 64)
    statuses = [submit(api, wrong).status for _ in range(70)]
    allowed = statuses.count(401)
    assert statuses == sorted(statuses) or time.monotonic() - began > 6
    assert 50 <= allowed <= 51 + (time.monotonic() - began) / 6

    def of_a_stranger() -> Reply:
        """Directly after a refused guess: one more login is allowed every 6 s."""
        poll(lambda: submit(api, wrong).status == 429)
        return submit(api, strangers.pop())

    refused = poll(lambda: (reply := of_a_stranger()).status == 429 and reply)
    assert int(refused.headers["retry-after"]) <= 7
    assert submit(api, known).status == 200
    assert submit(api, {}).status == 401  # the response says how to log in: no credentials are no guess


def test_a_key_is_cached_between_requests(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("cached"), SYTQ_AUTH__ENABLED="true")
    _, headers = made(api, scopes=("read",))

    def looked_up() -> int:
        rows = own_mysql.execute("SHOW GLOBAL STATUS LIKE 'Com_select'")
        return int(rows[0][1])

    refused = [api.request("POST", "/api/v1/tasks", PROMPT, headers).status for _ in range(3)]
    before = looked_up()
    refused += [api.request("POST", "/api/v1/tasks", PROMPT, headers).status for _ in range(200)]
    assert set(refused) == {403}
    assert looked_up() - before < 50, "each process asks once a second, and for other things"
