"""P1 and P2 at the API: submissions are accepted without Redis and refused without the database."""

from __future__ import annotations

import concurrent.futures
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sytq.broker.keys import Keys
from tests.installation import Installation, Reply
from tests.servers import MySQLServer, RedisServer, poll

pytestmark = pytest.mark.faults


def submit(api: Installation, timeout: float = 30.0) -> Reply:
    return api.request("POST", "/api/v1/tasks", {"url": "http://example.com/"}, timeout=timeout)


def stored(api: Installation, reply: Reply) -> bool:
    return bool(api.rows(f"SELECT 1 FROM sytq_tasks WHERE id = '{reply.json['task_id']}'"))


def test_a_submission_without_redis_is_accepted(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    assert submit(api).status == 200
    own_redis.kill()
    replies = [submit(api) for _ in range(5)]
    assert [reply.status for reply in replies] == [200] * 5
    assert all(stored(api, reply) for reply in replies)
    looked_up = api.request("GET", f"/api/tasks/{replies[0].json['task_id']}")
    assert (looked_up.status, looked_up.json["data"]["status"]) == (200, "pending")
    assert api.request("GET", "/api/tasks").json["data"]["total_count"] == 6


def test_a_hanging_redis_does_not_slow_submissions(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    assert submit(api).status == 200
    own_redis.pause()
    taken: list[float] = []
    try:
        for _ in range(10):
            began = time.monotonic()
            reply = submit(api)
            taken.append(time.monotonic() - began)
            assert (reply.status, stored(api, reply)) == (200, True)
        # No submission waits for Redis, whose timeout is 5 s; one may be slow because the machine stalled.
        assert sorted(taken)[-2] < 1.0
        began = time.monotonic()
        assert api.request("GET", f"/api/tasks/{reply.json['task_id']}").status == 200
        assert api.request("GET", "/api/tasks").status == 200
        assert time.monotonic() - began < 3.0
    finally:
        own_redis.resume()


def test_dispatch_resumes_when_redis_is_back(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    own_redis.kill()
    assert submit(api).status == 200
    own_redis.start()

    def dispatched() -> bool:
        assert submit(api).status == 200
        with own_redis.client() as client:
            return any(client.xlen(key) for key in client.scan_iter("*", _type="stream") if b"webhook" in key)

    poll(dispatched, interval=0.2)


def test_a_submission_without_mysql_is_503_and_not_stored(
    make_api: Any, own_mysql: MySQLServer, redis_server: RedisServer
) -> None:
    api = make_api(own_mysql.create_database("away"), SYTQ_DATABASE__TIMEOUT="1s")
    assert submit(api).status == 200
    own_mysql.kill()
    for path, body in (
        ("/api/v1/tasks", {"url": "http://example.com/"}),
        ("/api/v1/tasks/llm", {"prompt": "x"}),
        ("/api/tasks/llm", {"table_name": "valuation_records", "id": 4}),
    ):
        reply = api.request("POST", path, body)
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert "nothing was accepted" in reply.json.get("error", reply.json.get("message"))
    for path in ("/api/tasks", "/api/tasks/01a203a6-e3d8-7ecc-a4e5-97dbaeaaab8a"):
        assert api.request("GET", path).status == 503
    assert "the database does not answer" in api.request("GET", "/healthz/ready").json["data"]["database"]
    assert api.request("GET", "/health").status == 200
    own_mysql.start()
    poll(lambda: submit(api).status == 200)
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks") == [(2,)]
    assert "Traceback" not in api.gunicorn.text()


#: What a database says to a submission: SQLSTATE, number, text.
REFUSALS = [
    ("08S01", 1047, "WSREP has not yet prepared node for application use"),
    ("42000", 1203, "User already has more than max_user_connections active connections"),
    ("HY000", 1114, "The table is full"),
    ("HY000", 1205, "Lock wait timeout exceeded"),
    ("70100", 1969, "Query execution was interrupted (max_statement_time exceeded)"),
    ("HY000", 1290, "The server is running with the --read-only option"),
    ("42000", 1142, "INSERT command denied"),
    ("22001", 1406, "Data too long for column"),
    ("22007", 1366, "Incorrect string value"),
    ("45000", 1644, "a trigger says no"),
    ("HY000", 6123, "an error that nobody has met"),
]


def test_a_database_that_refuses_anything_is_503_and_never_500(make_api: Any, mysql_url: str) -> None:
    api = make_api(mysql_url)
    for state, code, text in REFUSALS:
        api.rows(
            "CREATE TRIGGER refuses BEFORE INSERT ON sytq_tasks FOR EACH ROW "
            f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = '{text}'"
        )
        reply = submit(api)
        assert (reply.status, reply.headers["retry-after"], "nothing was accepted" in reply.json["error"]) == (
            503, "5", True,
        ), code  # fmt: skip
        api.rows("DROP TRIGGER refuses")
    assert submit(api).status == 200
    # What tells whether migrations are pending is refused too: the error handler itself must not fail.
    api.rows("ALTER TABLE sytq_migrations RENAME COLUMN name TO other")
    api.rows("ALTER TABLE sytq_tasks RENAME COLUMN state TO other")
    for method, path, body in (
        ("POST", "/api/v1/tasks", {"url": "http://example.com/"}),
        ("POST", "/v2/tasks", {"type": "webhook", "payload": {"url": "http://example.com/"}}),
        ("GET", "/api/tasks", None),
        ("GET", "/v2/tasks", None),
        ("GET", "/v2/tasks/01a203a6-e3d8-7ecc-a4e5-97dbaeaaab8a", None),
    ):
        reply = api.request(method, path, body)
        assert (reply.status, reply.headers["retry-after"]) == (503, "5"), path
    assert api.request("GET", "/healthz/ready").status == 503
    assert "unhandled" not in api.gunicorn.text().lower()


def test_submissions_to_a_hanging_mysql_fail_together_in_time(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("hangs"), SYTQ_DATABASE__TIMEOUT="1s")
    assert submit(api).status == 200
    own_mysql.pause()
    try:
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            began = time.monotonic()
            replies = list(pool.map(lambda _: submit(api), range(50)))
        assert {reply.status for reply in replies} == {503}
        assert time.monotonic() - began < 30  # in sequence they would wait for 50 s
    finally:
        own_mysql.resume()
    poll(lambda: submit(api).status == 200)


def test_a_submission_is_503_if_sqlite_cannot_be_opened(make_api: Any, tmp_path: Path) -> None:
    api = make_api()
    api.gunicorn.terminate()  # its next start finds a folder in the file's place
    api.runtime.database.close_all()
    os.rename(tmp_path / "sytq.db", tmp_path / "elsewhere.db")
    for leftover in tmp_path.glob("sytq.db-*"):
        leftover.unlink()
    (tmp_path / "sytq.db").mkdir()
    api.start_api()
    reply = submit(api)
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")


def test_disconnected_clients_do_not_affect_other_submissions(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("leaves"), SYTQ_DATABASE__TIMEOUT="60s")
    assert submit(api).status == 200
    body = b'{"url": "http://example.com/"}'
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    own_mysql.pause()
    try:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            staying = [pool.submit(submit, api) for _ in range(10)]
            for _ in range(10):
                with socket.create_connection(("127.0.0.1", api.port)) as connection:
                    connection.sendall(head + body)
            own_mysql.resume()
            replies = [one.result() for one in staying]
    finally:
        own_mysql.resume()
    assert {reply.status for reply in replies} == {200}
    assert all(stored(api, reply) for reply in replies)
    assert submit(api).status == 200
    assert "Traceback" not in api.gunicorn.text()


def test_sigterm_answers_and_dispatches_accepted_submissions(make_api: Any, redis_server: RedisServer) -> None:
    api = make_api(SYTQ_REDIS__PREFIX="sigterm")
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(submit, api) for _ in range(200)]
        poll(lambda: sum(one.done() for one in waiting) > 20)
        assert api.gunicorn.terminate() == 0
        replies = [one.result() for one in waiting if one.exception() is None]
    assert replies
    assert {reply.status for reply in replies} == {200}
    assert all(stored(api, reply) for reply in replies)
    with redis_server.client() as client:
        assert client.hlen(Keys("sigterm").live) == api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0]
