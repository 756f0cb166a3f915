"""A step's result on its way into the database: kept beside the task in Redis, fenced, and dropped at its end."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

from sytq.broker.keys import Keys
from sytq.broker.limiter import Limiter
from sytq.errors import DatabaseUnavailable, Fail, Lost, RedisUnavailable
from sytq.executor.async_context import AsyncContext
from sytq.executor.context import Context
from sytq.executor.portal import Portal
from sytq.executor.transaction import Transaction
from sytq.ledger.models import Step, Task
from sytq.runtime import Runtime
from sytq.states import STATES, TERMINAL
from sytq.worker_runtime import task_services
from tests.broker.bench import Bench
from tests.installation import Installation
from tests.plugins.running import delivery_of, runtime_of
from tests.servers import RedisServer, poll


@pytest.fixture
def runtime(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setattr("sytq.executor.checkpoint._PAUSE", 0.01)
    with runtime_of(database_url, redis_url) as made:
        yield made


class Refusing:
    """A ledger whose database refuses the next `times` results."""

    def __init__(self, runtime: Runtime, error: Exception, times: int = 1) -> None:
        self._ledger, self._error, self.times = runtime.ledger, error, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def finish_step(self, *args: Any) -> None:
        if self.times > 0:
            self.times -= 1
            raise self._error
        self._ledger.finish_step(*args)


def context(
    runtime: Runtime, task_id: str, token: int, asynchronous: bool = False, **replaced: Any
) -> Context | AsyncContext:
    declared = runtime.registry.get("webhook")
    task = runtime.ledger.get(task_id)
    assert task is not None
    delivery = delivery_of(declared, {}, task_id, task.created_at, attempts=1, token=token)
    services = task_services(runtime, None, runtime.limiters)  # type: ignore[arg-type]
    services = dataclasses.replace(services, **replaced)
    if asynchronous:
        return AsyncContext(services, declared, delivery)
    portal = Portal(event_loop())
    return Context(AsyncContext(services, declared, delivery, portal=portal), portal)


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """An event loop on a thread of its own, as in a worker."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def accept(runtime: Runtime, run_at: dt.datetime | None = None) -> str:
    new = runtime.submitter.prepare("webhook", {"url": "http://example.com/"}, run_at=run_at)
    runtime.ledger.accept([new])
    return new.id


def results(runtime: Runtime) -> int:
    return runtime.inspection.kept_results()


@pytest.mark.parametrize("error", [KeyError("a bug"), OSError(9, "odd"), RuntimeError("cryptography is missing")])
def test_p4_result_survives_an_error_that_nobody_has_met(runtime: Runtime, error: Exception) -> None:
    task_id, runs = accept(runtime), []
    for token in (1, 2):
        first = context(runtime, task_id, token, ledger=Refusing(runtime, error))
        assert isinstance(first, Context)
        with pytest.raises(DatabaseUnavailable, match=rf"step paid failed: {type(error).__name__}$"):
            first.step("paid", lambda: runs.append(1) or "answer")
    second = context(runtime, task_id, 3)
    assert isinstance(second, Context)
    assert second.step("paid", lambda: runs.append(1) or "another") == "answer"
    assert (len(runs), results(runtime)) == (1, 0)


def test_what_also_raises_on_purpose_decides_how_the_task_goes_on(runtime: Runtime) -> None:
    attempt = context(runtime, accept(runtime), 1, ledger=Refusing(runtime, Fail("never")))
    assert isinstance(attempt, Context)
    with pytest.raises(Fail, match="never"):
        attempt.step("paid", lambda: "answer")


def test_begin_and_end_of_a_step_are_written_with_it(runtime: Runtime) -> None:
    task_id, said = accept(runtime), []

    def states() -> dict[str, str]:
        return {step.name: step.state for step in runtime.ledger.steps(task_id)}

    def begin(tx: Transaction, runs: bool) -> None:
        tx.enqueue("default", {}, key="begun")
        said.append(("begin", runs, states()))

    def end(tx: Transaction, result: str) -> None:
        tx.enqueue("default", {}, key="ended")
        said.append((result, states()))

    for token in (1, 2):  # the second one replays the result
        attempt = context(runtime, task_id, token)
        assert isinstance(attempt, Context)
        assert attempt.step("paid", lambda: "answer", begin=begin, end=end) == "answer"
    assert said == [
        ("begin", True, {"paid": "started"}),
        ("answer", {"paid": "done"}),
        ("begin", False, {"paid": "done"}),
        ("answer", {"paid": "done"}),
    ]
    assert runtime.ledger.find(limit=9)[1] == 3, "the task and two children"


def test_step_is_not_its_own_mark(runtime: Runtime) -> None:
    attempt, runs = context(runtime, accept(runtime), 1), []
    assert isinstance(attempt, Context)
    with pytest.raises(ValueError, match="the mark of step paid needs another name"):
        attempt.step("paid", lambda: runs.append(1), end=lambda tx, result: None, mark="paid")
    assert not runs


@pytest.mark.parametrize("error", [Fail("the row is gone"), peewee.DataError(1406, "too long"), KeyError("a bug")])
def test_p4_result_is_written_alone_where_its_end_is_refused(runtime: Runtime, error: Exception) -> None:
    task_id, ends, also = accept(runtime), [], []

    def end(tx: Transaction, result: str) -> None:
        tx.enqueue("default", {}, key="ended")
        ends.append([step.state for step in runtime.ledger.steps(task_id)])
        raise error

    attempt = context(runtime, task_id, 1)
    assert isinstance(attempt, Context)
    with pytest.raises(type(error)):
        attempt.step("paid", lambda: "answer", lambda: also.append(1), end=end)
    (step,) = runtime.ledger.steps(task_id)
    assert (step.state, step.value, ends, len(also)) == ("done", '"answer"', [["done"], ["done"]], 2)
    assert runtime.ledger.find(limit=9)[1] == 1, "no child of a refused transaction"
    assert results(runtime) == 0


def test_what_begin_raises_leaves_no_step(runtime: Runtime) -> None:
    task_id, runs = accept(runtime), []

    def begin(tx: Transaction, runs: bool) -> None:
        raise peewee.DataError(1406, "too long")

    attempt = context(runtime, task_id, 1)
    assert isinstance(attempt, Context)
    with pytest.raises(peewee.DataError):
        attempt.step("paid", lambda: runs.append(1), begin=begin)
    assert (runs, runtime.ledger.steps(task_id)) == ([], [])


class Repeating:
    """A ledger that begins a step again after a refusal, and then fails by itself."""

    def __init__(self, runtime: Runtime) -> None:
        self._ledger = runtime.ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def begin_step(self, *args: Any, also: Callable[[Step], None], **more: Any) -> Step:
        with pytest.raises(peewee.DataError):
            self._ledger.begin_step(*args, also=also, **more)
        raise peewee.DataError(1406, "too long for a column of sytq_steps")


def test_a_fault_of_our_tables_after_a_refused_begin_is_ours(runtime: Runtime) -> None:
    def begin(tx: Transaction, runs: bool) -> None:
        raise peewee.DataError(1406, "too long")

    attempt = context(runtime, accept(runtime), 1, ledger=Repeating(runtime))
    assert isinstance(attempt, Context)
    with pytest.raises(DatabaseUnavailable):
        attempt.step("paid", lambda: "answer", begin=begin)


def test_p4_result_refused_by_both_stores_waits_in_the_worker(runtime: Runtime) -> None:
    task_id, refusing = accept(runtime), Refusing(runtime, RuntimeError("odd"), times=4)
    attempt = context(runtime, task_id, 1, ledger=refusing)
    assert isinstance(attempt, Context)
    keep = attempt._services.operations.keep_result
    attempt._services.operations.keep_result = _unavailable  # type: ignore[method-assign]

    def heal() -> None:
        poll(lambda: refusing.times <= 2)
        attempt._services.operations.keep_result = keep  # type: ignore[method-assign]

    healing = threading.Thread(target=heal)
    healing.start()
    with pytest.raises(DatabaseUnavailable):  # only once Redis has it
        attempt.step("paid", lambda: "x" * 2_000_000)
    healing.join(60)
    again = context(runtime, task_id, 2)
    assert isinstance(again, Context)
    assert again.step("paid", lambda: "another") == "x" * 2_000_000


def _unavailable(*args: object) -> bool:
    raise RedisUnavailable("as scripted")


def test_p4_result_is_kept_again_in_an_emptied_redis(runtime: Runtime) -> None:
    task_id, refusing = accept(runtime), Refusing(runtime, DatabaseUnavailable("as scripted"), times=1_000_000)
    attempt = context(runtime, task_id, 1, ledger=refusing)
    assert isinstance(attempt, Context)

    def empty_and_heal() -> None:
        poll(lambda: results(runtime) == 1)
        runtime.redis.ask("FLUSHALL")
        poll(lambda: results(runtime) == 1)
        refusing.times = 0

    emptying = threading.Thread(target=empty_and_heal)
    emptying.start()
    assert attempt.step("paid", lambda: "answer") == "answer"
    emptying.join(60)
    assert results(runtime) == 0


def test_p4_step_begun_before_waits_for_redis_rather_than_run_again(runtime: Runtime) -> None:
    task_id = accept(runtime)
    fresh = context(runtime, task_id, 1)
    fresh._services.operations.kept_result = _unavailable  # type: ignore[method-assign, assignment]
    assert isinstance(fresh, Context)
    with pytest.raises(SystemExit):  # a step that no attempt began runs also without Redis
        fresh.step("paid", _dies)
    later = context(runtime, task_id, 2)
    later._services.operations.kept_result = _unavailable  # type: ignore[method-assign, assignment]
    assert isinstance(later, Context)
    with pytest.raises(RedisUnavailable):
        later.step("paid", lambda: "another call")


def _dies() -> str:
    raise SystemExit


def test_p4_checkpoint_is_written_though_a_failover_forgot_its_begin(runtime: Runtime) -> None:
    task_id = accept(runtime)
    attempt = context(runtime, task_id, 1)
    assert isinstance(attempt, Context)

    def forgets() -> str:
        runtime.ledger.forget_step(task_id, 1, "paid")
        return "answer"

    attempt.step("paid", forgets)
    (step,) = runtime.ledger.steps(task_id)
    assert (step.state, step.value) == ("done", '"answer"')


def test_p6_stale_attempt_neither_keeps_nor_overwrites_a_result(redis_url: str) -> None:
    bench = Bench(redis_url)
    operations = bench.operations
    bench.dispatch("a")
    token = int(bench.fetch("w")["a"][6])
    assert operations.keep_result("a", token, "paid", "1")
    assert not operations.keep_result("a", token - 1, "paid", "stale")
    assert operations.kept_result("a", "paid") == "1"
    assert operations.keep_result("a", token + 1, "paid", "2"), "a failover has forgotten this start"
    assert not operations.keep_result("gone", bench.now_ms() + 1000, "paid", "3"), "it ended elsewhere"
    operations.drop_result("a", "paid")
    assert operations.kept_result("a", "paid") is None


def test_p2_emptied_redis_takes_the_results_of_running_attempts(redis_url: str) -> None:
    bench = Bench(redis_url)
    bench.dispatch("a")
    token = int(bench.fetch("w")["a"][6])
    bench.redis.ask("FLUSHALL")
    assert bench.operations.keep_result("a", token, "paid", "1")


def test_p6_lost_attempt_drops_its_result(runtime: Runtime) -> None:
    task_id = accept(runtime)
    attempt = context(runtime, task_id, 1)
    assert isinstance(attempt, Context)
    with pytest.raises(Lost):
        attempt.step("paid", lambda: runtime.ledger.fenced(task_id, 2, lambda: "answer"))
    assert results(runtime) == 0


def test_results_of_ended_and_deleted_tasks_are_dropped(installation: Installation) -> None:
    runtime = installation.runtime
    states = {state: accept(runtime, run_at=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)) for state in STATES}
    with runtime.database.connection_context():
        for state, task_id in states.items():
            Task.update(state=state).where(Task.id == task_id).execute()
    redis, key = runtime.redis, Keys("sytq").results
    for task_id in (*states.values(), "deleted"):
        redis.ask("HSET", key, f"{task_id} a step", "1")
    installation.start_worker()
    needed = {f"{task_id} a step".encode() for state, task_id in states.items() if state not in TERMINAL}
    poll(lambda: set(redis.ask("HKEYS", key)) == needed, message="only what an attempt may begin with stays")


def test_p4_frozen_redis_delays_no_checkpoint(database_url: str, own_redis: RedisServer) -> None:
    """Twenty answers come while Redis is frozen, each beside a report of progress and a permit to release."""

    async def one(attempt: AsyncContext, frozen: asyncio.Event) -> None:
        async def paid() -> str:
            async with attempt.acquire(Limiter("provider", concurrency=50)):
                await frozen.wait()
                progress = asyncio.create_task(attempt.progress(1, 2))
                await asyncio.sleep(0.1)
                progress.cancel()
                return "answer"

        await attempt.step("paid", paid)

    async def all_at_once(runtime: Runtime, tasks: list[str]) -> float:
        frozen = asyncio.Event()
        first = context(runtime, tasks[0], 1, asynchronous=True)
        attempts = [first]
        for task_id in tasks[1:]:
            declared = runtime.registry.get("webhook")
            task = runtime.ledger.get(task_id)
            assert task is not None
            delivery = delivery_of(declared, {}, task_id, task.created_at, attempts=1, token=1)
            attempts.append(AsyncContext(first._services, declared, delivery))
        running = [asyncio.create_task(one(each, frozen)) for each in attempts]  # type: ignore[arg-type]
        while len(runtime.limiters._held) < len(tasks):
            await asyncio.sleep(0.01)
        own_redis.pause()
        since = time.monotonic()
        frozen.set()
        try:
            await asyncio.gather(*running)
            return time.monotonic() - since
        finally:
            own_redis.resume()

    with runtime_of(database_url, own_redis.url) as runtime:
        tasks = [accept(runtime) for _ in range(20)]
        assert asyncio.run(all_at_once(runtime, tasks)) < 3, (
            "far below the 5 s that Redis is waited for, and below the lease of 4 s"
        )
        assert all(runtime.ledger.steps(task_id)[0].state == "done" for task_id in tasks)
