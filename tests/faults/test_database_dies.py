"""P1: the database goes away while tasks are accepted, run and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.errors import DatabaseUnavailable
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
    tasks = [breakable.submit("plain", f"t{n}", seconds=0.1) for n in range(30)]
    breakable.wait_note("start t3")
    own_mysql.kill()
    with pytest.raises(DatabaseUnavailable):
        breakable.submit("plain", "refused")
    for n in range(30):
        breakable.wait_note(f"end t{n}")  # the work itself needs no database
    poll(lambda: "loop waits" in worker.text(), message="the recorder notices")
    own_mysql.start()
    for task in tasks:
        assert breakable.wait_state(task, "succeeded", timeout=30).attempts == 1
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
    assert breakable.wait_state(own.id, "succeeded", timeout=40).attempts == 1
    assert set(breakable.notes().values()) == {1}
