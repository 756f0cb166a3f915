"""P4: what a paid answer needs is written before anything else, and no attempt without a lease begins a paid call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sytq_plugins.llm.spend import SpendRow

from tests.faults.test_valuation import Desk
from tests.provider import Scene, Stage, answers
from tests.proxy import Proxy
from tests.servers import MySQLServer, RedisServer, poll

pytestmark = pytest.mark.faults

SOON = {"SYTQ_WORKER__LIVENESS": "2s", "SYTQ_WORKER__HEARTBEAT": "500ms"}
EARLY, LATE = 12, 10


@pytest.fixture
def desk(tmp_path: Path, mysql_url: str, own_redis: RedisServer) -> Iterator[Desk]:
    made = Desk(tmp_path, mysql_url, own_redis.url)
    yield made
    own_redis.resume()
    made.close()


def calls_per_row(desk: Desk) -> Counter[str]:
    return Counter(call.body["messages"][0]["content"] for call in desk.provider.calls)


def once_it_is(event: threading.Event) -> Scene:
    async def scene(stage: Stage) -> None:
        while not event.is_set():
            await asyncio.sleep(0.01)
        await answers()(stage)

    return scene


@pytest.mark.parametrize("seconds", [0.5, 2.5])
@pytest.mark.parametrize("fault", ["frozen server", "silent network"])
def test_p4_answers_are_safe_at_once_while_redis_is_frozen(
    desk: Desk, own_redis: RedisServer, fault: str, seconds: float
) -> None:
    """The late answers come while the early ones' permits, progress and callbacks wait for Redis."""
    proxy = Proxy(own_redis.port)
    early, late = threading.Event(), threading.Event()
    desk.provider.play(*[once_it_is(early)] * EARLY, once_it_is(late))
    worker = desk.start_worker(SYTQ_REDIS__URL=proxy.url)
    tasks = [desk.valuate(row_id, f"house {row_id}") for row_id in range(1, EARLY + LATE + 1)]
    poll(lambda: len(desk.provider.calls) == len(tasks), message="all are asked")
    own_redis.pause() if fault == "frozen server" else proxy.freeze()
    early.set()
    poll(lambda: desk.rows("SELECT COUNT(*) FROM valuation_records WHERE status = 'completed'")[0][0] >= 8)
    late.set()
    poll(lambda: desk.provider.running == 0, interval=0.001, message="all answers are sent")
    time.sleep(seconds)
    worker.kill()
    own_redis.resume()
    proxy.close()
    desk.start_worker()
    for task in tasks:
        desk.wait_state(task, "succeeded")
    assert set(calls_per_row(desk).values()) == {1}


@pytest.mark.parametrize("stall", ["row lock", "frozen server"])
def test_p4_worker_killed_while_the_first_write_hangs_repeats_no_call(
    tmp_path: Path, own_mysql: MySQLServer, redis_url: str, stall: str
) -> None:
    desk = Desk(tmp_path, own_mysql.create_database("desk"), redis_url)
    with contextlib.closing(desk), contextlib.closing(own_mysql.connect("desk", autocommit=False)) as other:
        desk.provider.play(desk.delayed)
        worker = desk.start_worker()
        task = desk.valuate()
        poll(lambda: desk.provider.calls, message="the provider is asked")
        desk.wait_state(task, "running")
        if stall == "row lock":
            other.cursor().execute("SELECT * FROM sytq_tasks FOR UPDATE")
        else:
            own_mysql.pause()
        desk.go_on.set()
        poll(lambda: desk.runtime.inspection.kept_results() == 1, timeout=4, message="the answer is kept in Redis")
        worker.kill()
        own_mysql.resume()
        other.rollback()
        desk.start_worker()
        desk.assert_done_once(task, calls=1)
        poll(lambda: desk.runtime.inspection.kept_results() == 0, message="it is dropped")


def records_its_call(desk: Desk, seconds: float) -> str:
    """Submit a valuation whose call is being recorded, for so long, with the begin of its step."""
    desk.rows(f"CREATE TRIGGER slow BEFORE INSERT ON sytq_spend FOR EACH ROW DO SLEEP({seconds})")
    task = desk.valuate()
    sleeping = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'"
    poll(lambda: desk.rows(sleeping)[0][0], message="the call is being recorded")
    return task


def test_p4_worker_killed_between_the_record_and_the_call_makes_one(desk: Desk, own_redis: RedisServer) -> None:
    proxy = Proxy(own_redis.port)
    worker = desk.start_worker(SYTQ_REDIS__URL=proxy.url)
    task = records_its_call(desk, 1)
    proxy.freeze()  # no permit
    poll(lambda: desk.rows("SELECT outcome FROM sytq_spend"), message="the call is recorded")
    worker.kill()
    proxy.close()
    assert desk.record().status == "processing"
    desk.rows("DROP TRIGGER slow")
    desk.start_worker()
    desk.assert_done_once(task, calls=1)
    assert desk.rows("SELECT outcome, cost FROM sytq_spend ORDER BY token") == [("lost", None), ("ok", None)]
    assert [(step.name, step.interrupted) for step in desk.runtime.ledger.steps(task)] == [("node-0", 1), ("report", 0)]


def test_p4_attempt_without_a_lease_begins_no_call(desk: Desk, own_redis: RedisServer) -> None:
    proxy = Proxy(own_redis.port)
    cut_off = desk.start_worker(SYTQ_REDIS__URL=proxy.url, **SOON)
    task = records_its_call(desk, 3)  # longer than the lease
    proxy.freeze()
    desk.start_worker(**SOON)
    desk.wait_state(task, "succeeded")
    poll(
        lambda: len(desk.provider.calls) > 1 or '"task failed"' in cut_off.text(),
        message="the first attempt calls too, or gives up",
    )
    assert len(desk.provider.calls) == 1
    with desk.runtime.database.connection_context():
        assert {(row.outcome, row.cost) for row in SpendRow.select()} == {("ok", None), ("lost", None)}
    proxy.close()
