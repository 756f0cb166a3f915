"""P1, P2: Redis is killed, emptied or unavailable."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.broker.keys import RECORDER
from sytq.states import TERMINAL
from tests.installation import Installation
from tests.servers import RedisServer, poll

pytestmark = pytest.mark.faults


@pytest.fixture
def breakable(tmp_path: Path, own_redis: RedisServer) -> Iterator[Installation]:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    yield made
    if not own_redis.running:
        own_redis.start()
    made.close()


def test_p2_submissions_during_a_redis_outage_run_after_it(breakable: Installation, own_redis: RedisServer) -> None:
    worker = breakable.start_worker()
    own_redis.kill()
    tasks = [breakable.submit("plain", f"t{n}") for n in range(5)]
    assert [breakable.row(task).state for task in tasks] == ["queued"] * 5
    own_redis.start()
    for task in tasks:
        breakable.wait_state(task, "succeeded")
    assert breakable.notes() == {f"{word} t{n}": 1 for n in range(5) for word in ("start", "end")}
    assert worker.alive


@pytest.mark.parametrize("type_name", ["plain", "gentle"])
def test_p2_running_task_survives_an_emptied_redis_and_runs_once(
    breakable: Installation, own_redis: RedisServer, type_name: str
) -> None:
    breakable.start_worker()
    breakable.start_worker()
    breakable.hold("running")
    running = breakable.submit(type_name, "running")
    delayed = breakable.submit("failing", "fails")
    breakable.wait_note("start running")
    own_redis.client().flushall()
    breakable.wait_state(delayed, "dead")
    time.sleep(6)  # longer than the lease of a worker
    breakable.release("running")
    assert breakable.wait_state(running, "succeeded").attempts == 1
    assert breakable.notes()["start running"] == 1


def test_p2_end_acknowledged_to_an_emptied_redis_is_recorded(breakable: Installation, own_redis: RedisServer) -> None:
    breakable.start_worker(SYTQ_WORKER__HEARTBEAT="20s", SYTQ_WORKER__LIVENESS="60s")
    breakable.hold("a")
    task = breakable.submit("plain", "a")
    breakable.wait_note("start a")
    own_redis.client().flushall()  # and no heartbeat re-registers the task before it ends
    breakable.release("a")
    assert breakable.wait_state(task, "succeeded").attempts == 1
    assert breakable.notes() == {"start a": 1, "end a": 1}


@pytest.mark.parametrize("type_name", ["plain", "gentle", "hopeless"])
def test_p2_unrecorded_end_survives_an_emptied_redis(
    breakable: Installation, own_redis: RedisServer, type_name: str
) -> None:
    worker = breakable.start_worker()
    with contextlib.closing(sqlite3.connect(breakable.folder / "sytq.db", isolation_level=None)) as other:
        breakable.hold("first", "a")
        first, task = breakable.submit("plain", "first"), breakable.submit(type_name, "a")
        for one in (first, task):
            breakable.wait_state(one, "running")
        redis, events = breakable.runtime.redis, breakable.runtime.keys.events
        poll(lambda: redis.ask("XPENDING", events, RECORDER)["pending"] == 0, message="both starts are recorded")
        other.execute("BEGIN IMMEDIATE")  # the database is locked, and the recorder waits for it with the first end
        breakable.release("first")
        poll(lambda: redis.ask("XPENDING", events, RECORDER)["pending"] == 1, message="the recorder has the first end")
        breakable.release("a")
        live = breakable.runtime.inspection.live
        poll(lambda: live([task])[task].state in TERMINAL, message="Redis takes the second")
        assert breakable.row(task).state not in TERMINAL
        own_redis.client().flushall()
        poll(lambda: "Redis was emptied" in worker.text(), message="the worker notices")
        other.execute("ROLLBACK")
    row = breakable.wait_state(task, "succeeded", "dead", timeout=30)
    assert (row.attempts, breakable.notes()["start a"]) == (1, 1)
    (attempt,) = breakable.runtime.ledger.attempts(task)
    assert attempt.finished_at is not None


def test_p2_waiting_and_delayed_tasks_survive_an_emptied_redis(breakable: Installation, own_redis: RedisServer) -> None:
    later = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=3)
    waiting = [breakable.submit("plain", f"w{n}") for n in range(20)]
    delayed = [breakable.submit("plain", f"d{n}", run_at=later) for n in range(5)]
    own_redis.client().flushall()
    breakable.start_worker()
    for task in waiting + delayed:
        breakable.wait_state(task, "succeeded")
    assert set(breakable.notes().values()) == {1}


def test_p2_redis_killed_under_load_and_restarted_loses_no_task(
    breakable: Installation, own_redis: RedisServer
) -> None:
    worker = breakable.start_worker()
    running = breakable.submit("gentle", "running", seconds=3)
    tasks = [breakable.submit("plain", f"t{n}", seconds=0.05) for n in range(40)]
    breakable.wait_note("start t5")
    own_redis.kill()
    poll(lambda: "Redis does not answer" in worker.text(), message="it notices")
    own_redis.start()
    for task in [running, *tasks]:
        breakable.wait_state(task, "succeeded")
    assert breakable.notes()["end running"] == 1
    breakable.assert_redis_forgets()


def test_p2_a_stalled_redis_only_delays(breakable: Installation, own_redis: RedisServer) -> None:
    breakable.start_worker()
    task = breakable.submit("gentle", "a", seconds=1)
    breakable.wait_note("start a")
    own_redis.pause()
    late = breakable.submit("plain", "late")  # the dispatch times out, the row stays
    own_redis.resume()
    breakable.wait_state(task, "succeeded")
    breakable.wait_state(late, "succeeded")
    assert breakable.notes()["start late"] == 1


def test_p2_worker_started_before_redis_works_once_redis_is_up(breakable: Installation, own_redis: RedisServer) -> None:
    task = breakable.submit("plain", "a")
    own_redis.kill()
    worker = breakable.start_worker()
    poll(lambda: "Redis does not answer" in worker.text(), message="it says what it waits for")
    own_redis.start()
    breakable.wait_state(task, "succeeded")
