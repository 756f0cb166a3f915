"""P1: the database goes away while tasks are accepted, run and recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import open_database, read
from tests.servers import MySQLServer, poll
from tests.workers import Installation

pytestmark = pytest.mark.faults


@pytest.fixture
def breakable(tmp_path: Path, own_mysql: MySQLServer, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, own_mysql.create_database("sytq"), redis_url, SYTQ_DATABASE__TIMEOUT="2s")
    yield made
    made.close()


def test_p1_what_ends_while_the_database_is_away_is_recorded_when_it_is_back(
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


def test_p1_a_task_that_needs_the_database_waits_for_it_and_uses_no_attempt(
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


def test_p1_what_ends_while_the_database_takes_no_writes_is_recorded_when_it_does_again(
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
def test_p4_a_result_that_waits_for_the_database_is_not_ended_by_the_time_limit(
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


def test_the_time_limit_goes_on_behind_a_step(breakable: Installation) -> None:
    breakable.start_worker()
    task = breakable.submit("overdue", "a")
    assert breakable.wait_state(task, "dead").error.startswith("timed out")
    assert breakable.notes() == {"step a": 1}


def test_users_of_a_frozen_database_wait_side_by_side_and_not_one_after_the_other(own_mysql: MySQLServer) -> None:
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
        # 2 s each, the time limit of a read: one after the other that would be 30 s.
        assert max(waited) < 20
        poll(lambda: read(database, lambda: database.execute_sql("SELECT 1").fetchone()) == (1,), message="it answers")
        for done in [threads.submit(read, database, idle) for _ in range(4)]:
            done.result()  # nobody has kept a place
    database.close_all()  # type: ignore[attr-defined]
