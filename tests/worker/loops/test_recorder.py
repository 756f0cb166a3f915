"""P2: the recorder keeps what a failover of the database may lose, and holds the service for nothing else."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from sytq.ids import new_id
from sytq.ledger import hold
from sytq.ledger.database import transact
from sytq.ledger.ledger import NewTask
from sytq.ledger.models import Attempt, Task
from sytq.service.adoption import Adoption
from sytq.service.hold import recorded_in_redis
from sytq.worker.loops.position import Position
from sytq.worker.loops.recorder import KEEP_MS, Recorder
from tests.installation import Installation


class Bench:
    """A recorder of an installation, run step by step."""

    def __init__(self, installation: Installation) -> None:
        parts = self.parts = installation.runtime
        self.installation = installation
        adoption = Adoption(parts.ledger, parts.redis, parts.keys, parts.registry)
        position = Position(parts.redis, parts.keys, parts.database, adoption)
        self.recorder = Recorder(parts.redis, parts.keys, "w", parts.recording, position)
        self.recorder.step()  # makes the group

    def event(self, *, age_ms: int = 0) -> int:
        """Add an event about no task, and return its time."""
        at = self.parts.redis.now_ms() - age_ms
        fields = ("kind", "started", "worker", "w", "at", at, "data", "[]")
        self.parts.redis.ask("XADD", self.parts.keys.events, f"{at}-0", *fields)
        return at

    def set_position(self, to: int) -> None:
        transact(self.parts.database, lambda: hold.set_position(self.parts.database, to, lower=True))

    def held(self) -> bool:
        return transact(self.parts.database, hold.held) is not None

    def audited(self) -> list[str]:
        return [what for (what,) in self.installation.rows("SELECT what FROM sytq_audit ORDER BY id")]


@pytest.fixture
def bench(installation: Installation) -> Bench:
    return Bench(installation)


def test_events_gather_while_many_come_and_a_single_one_is_written_at_once(bench: Bench) -> None:
    bench.event()
    assert bench.recorder.step() == 0
    for age in range(20):
        bench.event(age_ms=-age)
    assert 0 < bench.recorder.step() < 0.1


def test_p2_failover_right_after_a_long_outage_holds_nothing(bench: Bench) -> None:
    # The events of the outage are recorded late, all at once; then the database loses its last second.
    first, *_ = [bench.event(age_ms=age) for age in (6 * KEEP_MS, 5 * KEEP_MS, 4 * KEEP_MS)]
    bench.recorder.step()
    bench.recorder._trimmed = 0.0
    bench.recorder.step()
    bench.set_position(first)
    bench.recorder._trimmed = 0.0
    bench.recorder.step()
    assert (bench.audited(), bench.held()) == (["ledger.set_back"], False)


def test_an_end_that_a_failover_lost_ends_the_row_of_its_start_again(bench: Bench) -> None:
    (task,) = bench.parts.ledger.accept([NewTask(new_id(), "t", "q", "high", "{}")])
    redis, events = bench.parts.redis, bench.parts.keys.events
    at = redis.now_ms()
    started = ("kind", "started", "worker", "w", "at", at, "data", json.dumps([[task.id, at, 1, False]]))
    redis.ask("XADD", events, f"{at}-0", *started)
    bench.recorder.step()
    data = {"state": "succeeded", "attempts": 1, "worker": "w", "outcome": "succeeded", "started": at, "finished": at}
    redis.ask("XADD", events, f"{at + 1}-0", "kind", "ended", "id", task.id, "token", at, "data", json.dumps(data))
    bench.recorder.step()
    assert bench.installation.rows("SELECT outcome FROM sytq_attempts") == [("succeeded",)]

    def lose() -> None:
        Task.update(state="running").execute()
        Attempt.update(outcome="running").execute()

    transact(bench.parts.database, lose)
    bench.set_position(at)
    bench.recorder._trimmed = 0.0
    bench.recorder.step()
    assert bench.audited() == ["ledger.set_back"]
    assert bench.installation.rows("SELECT outcome FROM sytq_attempts") == [("succeeded",)]


def test_recorder_that_slept_takes_no_lowered_position_for_a_loss(bench: Bench) -> None:
    before = bench.event(age_ms=1000)
    bench.recorder.step()
    # Redis came back older meanwhile, and another recorder has lowered what both stores know.
    bench.parts.redis.ask("SET", bench.parts.keys.recorded, before - KEEP_MS)
    bench.parts.redis.ask("XDEL", bench.parts.keys.events, f"{before}-0")
    bench.set_position(before - KEEP_MS)
    after = bench.event()
    for _ in range(2):
        bench.recorder.step()
    assert (bench.audited(), bench.held()) == ([], False)
    assert (
        recorded_in_redis(bench.parts.redis, bench.parts.keys) == after == transact(bench.parts.database, hold.position)
    )


def test_older_redis_that_has_made_an_event_already_runs_nothing_again(bench: Bench) -> None:
    parts, redis, keys = bench.parts, bench.parts.redis, bench.parts.keys
    task = bench.installation.submit("plain", "ended")
    before = bench.event(age_ms=1000)
    bench.recorder.step()
    parts.database.execute_sql("UPDATE sytq_tasks SET state = 'succeeded'")
    redis.ask("SET", keys.recorded, before - KEEP_MS)  # an older copy, which has the task still
    after = bench.event()
    bench.recorder.step()
    assert (bench.audited(), bench.held()) == (["broker.set_back"], False)
    assert parts.inspection.live([task]) == {}
    assert recorded_in_redis(redis, keys) == after == transact(parts.database, hold.position)


def test_an_event_that_cannot_be_written_holds_no_other_up(bench: Bench) -> None:
    redis, keys = bench.parts.redis, bench.parts.keys
    tasks = [bench.installation.submit("plain", f"task {number}") for number in range(100)]
    end = {"state": "succeeded", "attempts": 1, "worker": "w", "outcome": "succeeded", "started": 1, "finished": 2}
    for number, task in enumerate(tasks):
        data = json.dumps(end | {"result": "\ud800" if number == 70 else "7"})
        last = redis.ask("XADD", keys.events, "*", "kind", "ended", "id", task, "token", 1, "data", data)
    with capture_logs() as logged:
        bench.recorder.step()
    rows = bench.parts.ledger.some(tasks)
    assert [rows[task].state for task in tasks] == ["succeeded"] * 100
    assert [rows[task].result for task in tasks] == ["7"] * 70 + [None] + ["7"] * 29
    assert "cannot be written" in str(rows[tasks[70]].error)
    assert redis.ask("XLEN", keys.deadletters) == 1
    assert len(logged) < 10, "one by one it would be a hundred transactions"
    assert recorded_in_redis(redis, keys) == int(last.split(b"-")[0])
    assert [attempt.outcome for attempt in bench.parts.ledger.attempts(tasks[71])] == ["succeeded"]
