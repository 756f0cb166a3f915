"""P1: the database is unavailable while tasks are accepted, run and recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import open_database, read
from tests.installation import Installation
from tests.servers import MySQLServer, poll

pytestmark = pytest.mark.faults


@pytest.fixture
def breakable(tmp_path: Path, own_mysql: MySQLServer, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, own_mysql.create_database("sytq"), redis_url, SYTQ_DATABASE__TIMEOUT="2s")
    yield made
    made.close()


def test_p1_ends_during_a_database_outage_are_recorded_after_it(
    breakable: Installation, own_mysql: MySQLServer
) -> None:
    worker = breakable.start_worker()
    breakable.hold("t29")
    tasks = [breakable.submit("plain", f"t{n}", seconds=0.1) for n in range(30)]
    breakable.wait_note("start t3")
    own_mysql.kill()
    breakable.release("t29")
    with pytest.raises(DatabaseUnavailable):
        breakable.submit("plain", "refused")
    for n in range(30):
        breakable.wait_note(f"end t{n}")  # the work itself needs no database
    poll(lambda: "loop waits" in worker.text(), message="the recorder notices")
    own_mysql.start()
    for task in tasks:
        assert breakable.wait_state(task, "succeeded").attempts == 1
    assert breakable.notes()["start refused"] == 0
    assert worker.alive


def test_p1_task_waits_for_the_database_and_consumes_no_attempt(
    breakable: Installation, own_mysql: MySQLServer
) -> None:
    breakable.start_worker()
    own = breakable.prepare("stepwise", "a", 0.1)
    breakable.runtime.ledger.accept([own])
    own_mysql.kill()
    breakable.runtime.submitter.dispatch([own])
    own_mysql.start()
    assert breakable.wait_state(own.id, "succeeded").attempts == 1
    assert set(breakable.notes().values()) == {1}


def test_p1_ends_on_a_read_only_database_are_recorded_afterwards(
    tmp_path: Path, own_mysql: MySQLServer, redis_url: str
) -> None:
    own_mysql.create_database("sytq")
    own_mysql.execute("CREATE USER plain@localhost")  # root may write to a read-only server
    own_mysql.execute("CREATE USER plain@'127.0.0.1'")
    for host in ("localhost", "127.0.0.1"):
        own_mysql.execute(f"GRANT ALL ON sytq.* TO plain@'{host}'")
    installation = Installation(tmp_path, own_mysql.url("sytq").replace("root@", "plain@"), redis_url)
    try:
        worker = installation.start_worker()
        installation.hold("a")
        task = installation.submit("plain", "a")
        installation.wait_state(task, "running")
        own_mysql.execute("SET GLOBAL read_only = ON")  # as a failover to a replica leaves it
        installation.release("a")
        installation.wait_note("end a")
        poll(lambda: "read-only option" in worker.text(), message=lambda: worker.text()[-1500:])
        own_mysql.execute("SET GLOBAL read_only = OFF")
        assert installation.wait_state(task, "succeeded").result == '{"name":"a"}'
        assert installation.runtime.inspection.unreadable().items == []
    finally:
        installation.close()


@pytest.mark.parametrize(("type_name", "steps"), [("keeper", 1), ("gentle-keeper", 2)])
def test_p4_checkpoint_waiting_for_the_database_outlives_the_timeout(
    breakable: Installation, own_mysql: MySQLServer, type_name: str, steps: int
) -> None:
    worker = breakable.start_worker()
    breakable.hold("a")
    task = breakable.submit(type_name, "a")
    breakable.wait_note("step a", times=steps)
    own_mysql.kill()
    died = time.monotonic()
    breakable.release("a")
    poll(
        lambda: "checkpoint waits" in worker.text() and time.monotonic() - died > 12,
        message="the limit of 10 s is over",
    )
    own_mysql.start()
    row = breakable.wait_state(task, "succeeded")
    assert row.attempts == 1
    assert breakable.notes() == {"step a": steps}


def test_timeout_continues_after_a_step(breakable: Installation) -> None:
    breakable.start_worker()
    task = breakable.submit("overdue", "a")
    assert breakable.wait_state(task, "dead").error.startswith("timed out")
    assert breakable.notes() == {"step a": 1}


def test_queries_on_a_frozen_database_time_out_in_parallel(own_mysql: MySQLServer) -> None:
    users = 16
    database = open_database(own_mysql.create_database("sytq"), pool=users, timeout=1)

    def use() -> float:
        since = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            read(database, lambda: database.execute_sql("SELECT 1").fetchone())
        return time.monotonic() - since

    def idle() -> None:
        met.wait(60)  # as many connections as users

    met = threading.Barrier(4)
    with ThreadPoolExecutor(users) as threads:
        for done in [threads.submit(read, database, idle) for _ in range(4)]:
            done.result()
        own_mysql.pause()
        try:
            waited = [done.result() for done in [threads.submit(use) for _ in range(users)]]
        finally:
            own_mysql.resume()
        # 2 s each, the timeout of a read: in sequence that would be 30 s.
        assert max(waited) < 20
        poll(lambda: read(database, lambda: database.execute_sql("SELECT 1").fetchone()) == (1,), message="it answers")
        for done in [threads.submit(read, database, idle) for _ in range(4)]:
            done.result()  # every connection is back in the pool
    database.close_all()  # type: ignore[attr-defined]
