"""P1: a database that hangs, or reads but does not write: the probe and every refusal report it in bounded time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import falcon.asgi
import falcon.testing
import pytest

from sytq import config
from sytq.api import health
from sytq.api.submission_batcher import SubmissionBatcher
from sytq.ledger.insert import Accepted
from sytq.runtime import build
from sytq.service.ledger_check import LedgerCheck
from tests.installation import Installation
from tests.servers import MySQLServer, poll
from tests.tables import make_tables

pytestmark = pytest.mark.faults
#: Seconds that a probe may take, and a submission: database.timeout is 1 s here, and connecting anew, waiting for an
#: answer and trying again come to a few of them. Without a bound of ours they wait for 50 s, or for ever.
PROBE, SUBMISSION = 20.0, 40.0
Stuck = tuple[str, Callable[[], AbstractContextManager[None]]]


@contextlib.contextmanager
def frozen(server: MySQLServer) -> Iterator[None]:
    """Connections stay open and the server does not answer."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextlib.contextmanager
def table_locked(server: MySQLServer, name: str) -> Iterator[None]:
    """Reads go on, writes wait: as a backup or a long ALTER TABLE leaves it."""
    with contextlib.closing(server.connect(name)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES sytq_tasks READ")
        yield


@contextlib.contextmanager
def file_locked(path: Path) -> Iterator[None]:
    """Another process (than the API's) is in the middle of a write."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture(params=["sqlite", *(pytest.param(name, marks=pytest.mark.mysql) for name in ("frozen", "locked"))])
def stuck(request: pytest.FixtureRequest, tmp_path: Path) -> Stuck:
    """A database's URL, and a way to make its writes hang."""
    if request.param == "sqlite":
        path = tmp_path / "sytq.db"
        return f"sqlite:///{path}", lambda: file_locked(path)
    server: MySQLServer = request.getfixturevalue("own_mysql")
    url = server.create_database("stuck")
    return url, lambda: frozen(server) if request.param == "frozen" else table_locked(server, "stuck")


class Timed:
    """Requests with the longest time that each path took."""

    def __init__(self, api: Installation) -> None:
        self.api = api
        self.longest: Counter[str] = Counter()

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        began = time.monotonic()
        reply = self.api.request(method, path, body, timeout=60)
        self.longest[path] = max(self.longest[path], time.monotonic() - began)  # type: ignore[assignment]
        return reply

    def submit(self) -> Any:
        return self("POST", "/api/v1/tasks", {"url": "http://example.com/"})


def test_a_stuck_writer_is_not_ready_refuses_in_time_and_recovers(make_api: Any, stuck: Stuck) -> None:
    url, hang = stuck
    api = make_api(url, SYTQ_DATABASE__TIMEOUT="1s")
    ask = Timed(api)
    assert ask.submit().status == 200
    assert ask("GET", "/healthz/ready").status == 200
    ended = threading.Event()

    def keep_submitting() -> list[Any]:
        replies = []
        while not ended.is_set():
            replies.append(ask.submit())
        return replies

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with hang():
            clients = [pool.submit(keep_submitting) for _ in range(4)]
            try:
                poll(lambda: ask("GET", "/healthz/ready").status == 503, message="it is not ready")
                for _ in range(3):  # and stays not ready
                    refused = ask("GET", "/healthz/ready")
                    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
                    assert refused.json["data"]["database"] != "ok"
                    assert refused.json["data"]["redis"] == "ok"
                assert ask("GET", "/healthz/live").status == 200, "a restart would not help"
                poll(lambda: ask.longest["/api/v1/tasks"] > 0.5, timeout=SUBMISSION, message="the refusals come")
            finally:
                ended.set()
            replies = [reply for client in clients for reply in client.result(60)]
        assert replies
        assert {(reply.status, reply.headers.get("retry-after")) for reply in replies} == {(503, "5")}
    assert ask.longest["/healthz/ready"] < PROBE
    assert ask.longest["/healthz/live"] < PROBE
    assert ask.longest["/api/v1/tasks"] < SUBMISSION
    poll(lambda: ask("GET", "/healthz/ready").status == 200, message=api.gunicorn.text)
    poll(lambda: ask.submit().status == 200, message=api.gunicorn.text)
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks") == [(2,)], "what was refused is not there"
    assert "Traceback" not in api.gunicorn.text()


def test_a_read_only_database_is_not_ready_and_submissions_are_503(make_api: Any, own_mysql: MySQLServer) -> None:
    own_mysql.create_database("replica")
    for host in ("localhost", "127.0.0.1"):  # root may write to a read-only server
        own_mysql.execute(f"CREATE USER plain@'{host}'")
        own_mysql.execute(f"GRANT ALL ON replica.* TO plain@'{host}'")
    api = make_api(own_mysql.url("replica").replace("root@", "plain@"))
    ask = Timed(api)
    assert ask("GET", "/healthz/ready").status == 200
    own_mysql.execute("SET GLOBAL read_only = ON")  # the state of the old primary after a failover
    refused = ask.submit()
    assert (refused.status, refused.headers.get("retry-after")) == (503, "5")
    assert "read-only option" in ask("GET", "/healthz/ready").json["data"]["database"]
    own_mysql.execute("SET GLOBAL read_only = OFF")
    assert ask("GET", "/healthz/ready").status == 200
    assert ask.submit().status == 200
    assert "Traceback" not in api.gunicorn.text()


def test_a_writer_stuck_beyond_the_limit_is_not_live(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a thread of ours can hang for 120 s: the database's own limits are far below. Here the limit is below those.
    monkeypatch.setattr(health, "_STUCK", 0.3)
    path = tmp_path / "sytq.db"
    environ = {
        "SYTQ_DATABASE__URL": f"sqlite:///{path}",
        "SYTQ_DATABASE__TIMEOUT": "60s",
        "SYTQ_REDIS__URL": redis_url,
    }
    parts = build(config.load(environ=environ))
    make_tables(parts.database)

    async def scenario() -> None:
        batcher = SubmissionBatcher(parts.ledger, parts.submitter, LedgerCheck(parts.database, list))
        app = falcon.asgi.App()
        app.add_route("/healthz/live", health.Live(batcher))
        async with falcon.testing.ASGIConductor(app) as client:

            async def until(status: int) -> None:
                async with asyncio.timeout(60):
                    while (await client.simulate_get("/healthz/live")).status_code != status:
                        await asyncio.sleep(0.05)

            await until(200)
            with file_locked(path):
                task = parts.submitter.prepare("webhook", {"url": "http://example.com/"})
                submission = batcher.submit([task])
                await until(503)
                assert not submission.done()
            assert (await submission).tasks == (Accepted(task.id),)
            await until(200)
            await batcher.close()

    asyncio.run(scenario())
    parts.redis.close()
    parts.database.close_all()
