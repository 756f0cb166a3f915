"""Operations on tasks: cancel, reschedule, pause, replay, delete; limits of queues and unique keys."""

from __future__ import annotations

import dataclasses
import datetime as dt
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.broker.operations import Operations
from sytq.broker.priorities import Turn
from sytq.errors import InvalidInput
from sytq.ids import new_id
from sytq.ledger.database import transact
from sytq.ledger.events import Event
from sytq.ledger.insert import Accepted, Existing
from sytq.ledger.models import Task, UniqueKey
from sytq.ledger.values import utcnow
from sytq.service.control import Operator
from sytq.states import DEAD, PRIORITIES
from tests.installation import Installation
from tests.servers import RedisServer, poll

Make = Callable[..., Installation]


@pytest.fixture
def make(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Make]:
    made: list[Installation] = []

    def build(**settings: str) -> Installation:
        made.append(Installation(tmp_path, database_url, redis_url, **settings))
        return made[-1]

    yield build
    for installation in made:
        installation.close()


def operator(installation: Installation) -> Operator:
    return installation.runtime.operator


def heartbeats(installation: Installation) -> object:
    return installation.runtime.redis.ask("ZRANGE", installation.runtime.keys.workers, 0, -1, "WITHSCORES")


def in_seconds(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


def test_waiting_tasks_are_cancelled_at_once_and_never_run(make: Make) -> None:
    installation = make()
    queued = installation.submit("plain", "queued")
    later = installation.submit("plain", "later", run_at=in_seconds(1).replace(tzinfo=None))
    for task in (queued, later):
        assert operator(installation).cancel(task, "ann: not needed") == "cancelled"
        assert installation.runtime.inspection.live([task])[task].state == "cancelled"
        assert operator(installation).cancel(task, "bob") == "ended"
    installation.start_worker()
    for task in (queued, later):
        row = installation.wait_state(task, "cancelled")
        assert (row.error, row.attempts) == ("cancelled by ann: not needed", 0)
    installation.wait_state(
        installation.submit("plain", "after", run_at=in_seconds(1.5).replace(tzinfo=None)), "succeeded"
    )
    assert installation.notes() == {"start after": 1, "end after": 1}


@pytest.mark.parametrize("type_name", ["gentle", "checking"])
def test_a_running_task_is_interrupted_or_ends_by_itself(make: Make, type_name: str) -> None:
    installation = make()
    installation.start_worker()
    task = installation.submit(type_name, "a", seconds=60)
    installation.wait_note("start a")
    assert operator(installation).cancel(task, "ann") == "asked"
    row = installation.wait_state(task, "cancelled", timeout=40)  # well before its 60 s are over
    assert row.error == "cancelled by ann"
    assert installation.notes()["end a"] == 0
    assert installation.notes()["noticed a"] == (type_name == "checking")


def test_a_cancelled_task_runs_its_on_dead(make: Make) -> None:
    installation = make()
    installation.start_worker()
    task = installation.submit("lonely", "a", seconds=60)
    installation.wait_note("start a")
    operator(installation).cancel(task, "ann")
    installation.wait_state(task, "cancelled")
    installation.wait_note("dead-1 a")


def test_a_task_unknown_to_redis_is_cancelled(make: Make, redis_server: RedisServer) -> None:
    installation = make()
    task = installation.submit("plain", "a")
    redis_server.client().flushall()
    assert operator(installation).cancel(task, "ann") == "cancelled"
    assert installation.row(task).state == "cancelled"
    with pytest.raises(InvalidInput, match="there is no task"):
        operator(installation).cancel("nosuch", "ann")


def test_a_task_dispatched_during_its_cancellation_does_not_run(make: Make, redis_server: RedisServer) -> None:
    installation = make()
    parts = installation.runtime
    task = installation.submit("plain", "a")
    with redis_server.client() as client:
        client.flushall()

    class Overtaken:
        """The task is dispatched again after its row is read and before its end is recorded."""

        def record(self, events: list[Event]) -> None:
            parts.submitter.dispatch(parts.ledger.still_unfinished([task]))
            parts.recording.record(events)

    operations = Operations(parts.redis, parts.keys)
    racing = Operator(parts.ledger, operations, parts.limiters, parts.submitter, Overtaken(), parts.registry)  # type: ignore[arg-type]
    assert racing.cancel(task, "ann") == "cancelled"
    installation.start_worker()
    installation.wait_state(installation.submit("plain", "after"), "succeeded")
    assert installation.notes()["start a"] == 0
    assert installation.row(task).state == "cancelled"


@pytest.mark.parametrize("statement", ["DELETE FROM sytq_tasks", "UPDATE sytq_tasks SET state = 'dead'"])
def test_a_unique_key_is_free_after_another_program_ends_its_task(make: Make, statement: str) -> None:
    installation = make()
    first = installation.submit("lonely", "k", run_at=in_seconds(3600).replace(tzinfo=None))
    again = installation.prepare("lonely", "k")
    assert installation.runtime.submitter.submit([again]) == [Existing(first)]
    installation.runtime.database.execute_sql(f"{statement} WHERE id = '{first}'")
    two = [installation.prepare("lonely", "k") for _ in range(2)]
    accepted, existing = sorted(installation.runtime.submitter.submit(two), key=lambda found: type(found).__name__)
    assert isinstance(accepted, Accepted) and existing == Existing(accepted.id)


def test_a_running_task_unknown_to_redis_is_cancelled(make: Make, redis_server: RedisServer) -> None:
    installation = make()
    worker = installation.start_worker(SYTQ_WORKER__HEARTBEAT="2s", SYTQ_WORKER__LIVENESS="10s")
    task = installation.submit("checking", "a")
    installation.wait_state(task, "running")
    last = heartbeats(installation)
    poll(lambda: heartbeats(installation) != last, message="a heartbeat has just ended")
    worker.signal(signal.SIGSTOP)  # it would register the task again
    redis_server.client().flushall()
    assert installation.runtime.inspection.live([task]) == {}
    assert operator(installation).cancel(task, "ann") == "asked"
    worker.signal(signal.SIGCONT)
    assert installation.wait_state(task, "cancelled").error == "cancelled by ann"
    assert operator(installation).cancel(task, "ann") == "ended"
    assert installation.notes() == {"start a": 1, "noticed a": 1}
    assert installation.runtime.redis.ask("HLEN", installation.runtime.keys.cancels) == 0


def test_a_waiting_task_unknown_to_redis_is_rescheduled(make: Make, redis_server: RedisServer) -> None:
    installation = make()
    task = installation.submit("plain", "a", run_at=in_seconds(3600).replace(tzinfo=None))
    redis_server.client().flushall()
    assert operator(installation).reschedule(task, in_seconds(-1))
    installation.start_worker()
    installation.wait_state(task, "succeeded")
    assert not operator(installation).reschedule(task, in_seconds(1))


def test_a_waiting_task_is_rescheduled(make: Make) -> None:
    installation = make()
    installation.start_worker()
    task = installation.submit("plain", "a", run_at=in_seconds(3600).replace(tzinfo=None))
    far = installation.submit("plain", "far", run_at=in_seconds(60).replace(tzinfo=None))
    assert operator(installation).reschedule(far, in_seconds(7200))
    assert operator(installation).reschedule(task, in_seconds(-1))
    installation.wait_state(task, "succeeded")
    assert not operator(installation).reschedule(task, in_seconds(1))
    assert installation.row(far).scheduled_at > in_seconds(7000).replace(tzinfo=None)
    assert installation.runtime.inspection.live([far])[far].state == "scheduled"


def test_a_paused_type_stays_paused_after_redis_is_emptied(make: Make, redis_server: RedisServer) -> None:
    installation = make()
    operator(installation).pause("plain", by="ann", why="the target is being moved")
    installation.start_worker()
    tasks = [installation.submit("plain", f"t{n}") for n in range(5)]
    other = installation.submit("hopeless", "other")  # the same queue, another type
    installation.wait_state(other, "dead")
    redis_server.client().flushall()
    installation.start_worker()
    inspection = installation.runtime.inspection
    poll(lambda: inspection.parked()["plain"] == 5, message="they are met and wait again")
    (pause,) = operator(installation).pauses()
    assert (pause.type, pause.paused_by, pause.paused_why) == ("plain", "ann", "the target is being moved")
    assert operator(installation).cancel(tasks[0], "ann") == "cancelled"
    assert operator(installation).resume("plain")
    assert not operator(installation).resume("plain")
    for task in tasks[1:]:
        assert installation.wait_state(task, "succeeded").attempts == 1
    assert {note for note in installation.notes() if note.startswith("start t")} == {f"start t{n}" for n in range(1, 5)}


def test_a_limit_holds_across_workers_and_costs_no_attempt(make: Make) -> None:
    installation = make(SYTQ_QUEUES__GENTLE='{"limit": 2}')
    for _ in range(3):
        installation.start_worker()
    tasks = [installation.submit("gentle", f"t{n}", seconds=0.3) for n in range(8)]
    for task in tasks:
        assert installation.wait_state(task, "succeeded").attempts == 1
    running = most = 0
    for line in installation.journal.read_text().splitlines():
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    assert most == 2


def test_a_rate_holds_across_workers(make: Make) -> None:
    installation = make(SYTQ_QUEUES__PLAIN='{"rate": "4/s"}')
    for _ in range(2):
        installation.start_worker()
    tasks = [installation.submit("plain", f"t{n}") for n in range(14)]
    for task in tasks:
        assert installation.wait_state(task, "succeeded").attempts == 1
    attempts = [installation.runtime.ledger.attempts(task)[0] for task in tasks]
    starts = sorted(attempt.token for attempt in attempts)  # milliseconds of Redis' clock
    assert all(later - earlier >= 1000 for earlier, later in zip(starts, starts[4:], strict=False))


def test_a_unique_key_has_one_unfinished_task(make: Make) -> None:
    installation = make()
    submitter = installation.runtime.submitter
    first, second, third = (installation.prepare("lonely", "a", 0.5) for _ in range(3))
    assert submitter.submit([first]) == [Accepted(first.id)]
    assert submitter.submit([second, third]) == [Existing(first.id), Existing(first.id)]
    assert installation.runtime.ledger.get(second.id) is None
    installation.start_worker()
    installation.wait_state(first.id, "succeeded")
    again = installation.prepare("lonely", "a")
    poll(lambda: submitter.submit([again]) == [Accepted(again.id)], message="the key is free again")
    installation.wait_state(again.id, "succeeded")
    assert installation.notes() == {"start a": 2, "end a": 2}
    with installation.runtime.database.connection_context():
        poll(lambda: UniqueKey.select().count() == 0, message="no key is left behind")


def test_dead_tasks_are_replayed_and_deleted(make: Make) -> None:
    installation = make()
    installation.start_worker()
    dead = [installation.submit(type_name, type_name) for type_name in ("hopeless", "failing")]
    for task in dead:
        installation.wait_state(task, "dead")
    operate = operator(installation)
    assert operate.replay(dead) == 2  # at once, while Redis still has their ends
    poll(lambda: installation.notes()["start failing"] == 6, message="all its attempts again")
    for task in dead:
        row = installation.wait_state(task, "dead")
        assert row.revived_at is not None
    poll(lambda: installation.notes()["dead-3 failing"] == 2, message="each death is told")
    assert operate.delete([*dead, "nosuch"]) == 2
    assert installation.runtime.ledger.get(dead[0]) is None


@pytest.mark.parametrize("other", ["replay", "delete"])
def test_concurrent_operators_change_each_task_once(make: Make, other: str) -> None:
    installation = make()
    ids = [installation.submit("plain", f"t{n}") for n in range(300)]
    ended = [Event(task, DEAD, 1, 1, finished_at=utcnow(), error="as told") for task in ids]
    for _ in range(3):
        installation.runtime.recording.write(ended)
        changes = [partial(getattr(operator(installation), name), ids) for name in ("replay", other)]
        with ThreadPoolExecutor(2) as threads:
            counts = [one.result() for one in [threads.submit(change) for change in changes]]
        assert sum(counts) == len(ids), counts
        ended = [dataclasses.replace(change, token=change.token + 100) for change in ended]
        ids = [task for task in ids if installation.runtime.ledger.get(task)]
        ended = [change for change in ended if change.id in ids]


def test_a_replay_respects_a_unique_key_of_another_task(make: Make) -> None:
    installation = make()
    installation.start_worker()
    failed = installation.submit("lonely", "fails")
    installation.wait_state(failed, "dead")
    other = installation.prepare("lonely", "fails", 30)
    poll(lambda: installation.runtime.submitter.submit([other]) == [Accepted(other.id)], message="the key is free")
    assert operator(installation).replay([failed]) == 0
    assert installation.row(failed).state == "dead"


def test_replay_with_a_row_that_cannot_be_dispatched_runs_the_others(make: Make) -> None:
    installation = make()
    new = [installation.prepare("plain", f"t{n}") for n in range(3)]
    installation.runtime.ledger.accept(new)  # Redis has never heard of them
    tasks = [task.id for task in new]
    installation.runtime.recording.write([Event(task, DEAD, 1, 1, finished_at=utcnow(), error="x") for task in tasks])
    transact(installation.runtime.database, Task.update(priority="utmost").where(Task.id == tasks[0]).execute)
    assert operator(installation).replay(tasks) == 3
    installation.start_worker()
    for task in tasks[1:]:
        installation.wait_state(task, "succeeded")
    assert "'utmost' is not valid" in (installation.wait_state(tasks[0], "dead").error or "")


def test_weighted_turns_include_low_and_strict_turns_keep_order() -> None:
    fair = [Turn({"urgent": 12, "high": 2, "normal": 1, "low": 1}).order() for _ in range(1)]
    assert fair[0] == list(PRIORITIES)
    turn = Turn({"urgent": 12, "high": 2, "normal": 1, "low": 1})
    firsts = [turn.order()[0] for _ in range(160)]
    assert {priority: firsts.count(priority) for priority in PRIORITIES} == {
        "urgent": 120, "high": 20, "normal": 10, "low": 10,
    }  # fmt: skip
    strict = Turn({"urgent": 1})
    assert all(strict.order() == list(PRIORITIES) for _ in range(50))


def test_a_worker_starts_tasks_by_priority(make: Make) -> None:
    installation = make()
    for priority in ("low", "normal", "high", "urgent"):
        for n in range(3):
            installation.submit("plain", f"{priority}-{n}", seconds=0.02, priority=priority)
    installation.start_worker(threads=1)
    poll(lambda: sum(installation.notes().values()) == 24, message="all have run")
    lines = installation.journal.read_text().splitlines()
    order = [line.split()[1] for line in lines if line.startswith("start")]
    assert order[0] == "urgent-0"
    mean = {p: sum(order.index(f"{p}-{n}") for n in range(3)) for p in PRIORITIES}
    assert mean["urgent"] < mean["high"] < mean["low"]


def test_many_far_delayed_tasks_do_not_delay_due_tasks(make: Make) -> None:
    installation = make()
    redis, keys = installation.runtime.redis, installation.runtime.keys
    far = int(in_seconds(86_400).timestamp() * 1000)
    for _ in range(10):
        Dispatcher(redis, keys).dispatch(
            [Envelope(new_id(), "plain", "plain", "normal", "{}", 1, due_ms=far) for _ in range(2000)]
        )
    installation.start_worker()
    near = [installation.submit("plain", f"t{n}", run_at=in_seconds(1).replace(tzinfo=None)) for n in range(250)]
    for task in near:  # more than one pass of the promotion moves
        installation.wait_state(task, "succeeded")
    assert redis.ask("ZCARD", keys.delayed("plain")) == 20_000


def test_resuming_a_type_runs_its_tasks_and_keeps_others_paused(make: Make) -> None:
    installation = make()
    for name in ("plain", "hopeless"):  # both in one queue
        operator(installation).pause(name, by="ann", why="maintenance")
    installation.start_worker()
    tasks = [installation.prepare("plain", f"t{n}") for n in range(1500)]
    installation.runtime.submitter.submit([*tasks, other := installation.prepare("hopeless", "other")])
    inspection = installation.runtime.inspection
    poll(lambda: inspection.parked()["plain"] == 1501, message="all are met")
    assert inspection.delayed()["plain"] == 0, "none is counted twice"
    operator(installation).resume("plain")
    for task in tasks[::100]:
        installation.wait_state(task.id, "succeeded")
    poll(lambda: inspection.parked()["plain"] == 1, message="the other one stays")
    assert installation.row(other.id).state == "queued"


def test_a_queue_is_paused_and_resumed_by_its_types(make: Make) -> None:
    installation = make()
    control = operator(installation)
    control.pause("hopeless", by="ann", why="an earlier reason")
    paused = control.pause_queue("plain", by="bob", why="all of it")
    assert "plain" in paused and "hopeless" not in paused
    reasons = {row.type: row.paused_why for row in control.pauses()}
    assert (reasons["plain"], reasons["hopeless"]) == ("all of it", "an earlier reason")
    assert reasons.keys() == {t.name for t in installation.runtime.registry if t.queue == "plain"}
    assert set(installation.runtime.inspection.paused()) == reasons.keys()
    assert control.pause_queue("plain", by="bob", why="again") == []
    assert control.resume_queue("plain") == sorted(reasons)
    assert control.pauses() == [] and installation.runtime.inspection.paused() == []
    for change in (lambda: control.pause_queue("nonsense", "bob", "x"), lambda: control.resume_queue("nonsense")):
        with pytest.raises(InvalidInput, match="no installed task type"):
            change()


def test_a_replayed_task_can_be_cancelled_while_it_waits(make: Make) -> None:
    installation = make()
    worker = installation.start_worker()
    task = installation.submit("hopeless", "a")
    installation.wait_state(task, "dead")
    worker.terminate()
    assert operator(installation).replay([task]) == 1
    assert operator(installation).cancel(task, "ann") == "cancelled"
    installation.start_worker()
    assert installation.wait_state(task, "cancelled").error == "cancelled by ann"
    assert installation.notes()["start a"] == 1


def test_a_unique_key_is_free_once_its_task_has_ended(make: Make) -> None:
    installation = make()
    first = installation.prepare("lonely", "a")
    installation.runtime.submitter.submit([first])
    installation.start_worker()
    live = installation.runtime.inspection.live

    def ended() -> bool:
        found = live([first.id]).get(first.id)
        return (found or installation.row(first.id)).state == "succeeded"  # Redis drops it after a while

    poll(ended, interval=0.001)
    again = installation.prepare("lonely", "a")  # before or after the end was recorded
    assert installation.runtime.submitter.submit([again]) == [Accepted(again.id)]
    installation.wait_state(again.id, "succeeded")
    assert installation.runtime.ledger.accept([again]) == [
        Accepted(again.id)
    ]  # submitted once more after its end: it reserves nothing
    free = installation.prepare("lonely", "a")
    assert installation.runtime.submitter.submit([free]) == [Accepted(free.id)]
