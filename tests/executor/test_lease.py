"""P4, P6: an attempt begins a step or acquires a permit only while it is known to hold its task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq import Limiter, Permit
from sytq.errors import Lost, RedisUnavailable, Waiting
from sytq.executor.async_context import AsyncContext
from sytq.executor.context import Context
from sytq.runtime import Runtime
from tests.broker.bench import Bench
from tests.executor.test_checkpoint import accept, context, results
from tests.plugins.running import runtime_of
from tests.servers import RedisServer, poll

ONE = Limiter("provider:one", concurrency=1)


@pytest.fixture
def runtime(redis_url: str, tmp_path: Path) -> Iterator[Runtime]:
    with runtime_of(
        f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, WORKER__LIVENESS="600ms", WORKER__HEARTBEAT="100ms"
    ) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["thread", "loop"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Started:
    """A task that an attempt holds in Redis; `renewed` is when its worker's lease was last renewed after a gap."""

    def __init__(self, runtime: Runtime, bench: Bench, asynchronous: bool, older: int = 0) -> None:
        self.renewed = -math.inf
        self.id = accept(runtime)
        bench.dispatch(self.id)
        self.token = int(bench.fetch("w")[self.id][6])
        self.context = context(runtime, self.id, self.token - older, asynchronous, valid_since=lambda: self.renewed)
        self.runs = 0

    def step(self) -> Any:
        if isinstance(self.context, Context):
            return self.context.step("paid", self._run)

        async def run() -> str:
            return self._run()

        return asyncio.run(self.context.step("paid", run))

    def hold(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Acquire a permit; `meanwhile` happens with the permit in hand."""
        if isinstance(self.context, Context):
            with self.context.acquire(ONE):
                meanwhile()
            return

        async def run(ctx: AsyncContext) -> None:
            async with ctx.acquire(ONE):
                meanwhile()

        asyncio.run(run(self.context))

    def _run(self) -> str:
        self.runs += 1
        return "answer"


def test_p4_attempt_whose_lease_has_expired_begins_no_step(runtime: Runtime, asynchronous: bool) -> None:
    started = Started(runtime, Bench(runtime.settings.redis.dsn), asynchronous)
    started.renewed = math.inf  # it is not
    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match="not known whether this attempt still holds its task"):
        started.step()
    assert (started.runs, time.monotonic() - began < 5) == (0, True)
    assert runtime.ledger.steps(started.id) == [], "it does not count as interrupted"


def test_p6_attempt_that_was_taken_over_in_a_gap_begins_no_step(runtime: Runtime, asynchronous: bool) -> None:
    started = Started(runtime, Bench(runtime.settings.redis.dsn), asynchronous, older=1)
    started.renewed = time.monotonic()
    with pytest.raises(Lost):
        started.step()
    assert started.runs == 0


def test_attempt_that_survived_a_gap_goes_on(runtime: Runtime, asynchronous: bool) -> None:
    started = Started(runtime, Bench(runtime.settings.redis.dsn), asynchronous)
    started.renewed = time.monotonic()
    assert started.step() == "answer"
    assert started.context._delivery.held_at > started.renewed, "Redis was asked"


def test_permit_that_was_taken_back_in_a_gap_is_acquired_again(runtime: Runtime, asynchronous: bool) -> None:
    """The lease expires after Redis granted the permit, and before the attempt knows of it."""
    bench = Bench(runtime.settings.redis.dsn)
    started = Started(runtime, bench, asynchronous)
    other = accept(runtime)
    bench.dispatch(other)
    token = int(bench.fetch("other")[other][6])
    limiters = started.context._services.limiters
    granted = limiters.acquire_all

    def acquire_all(permits: Any) -> Any:
        answers = granted(permits)
        if started.renewed == -math.inf:
            bench.redis.ask("DEL", bench.keys.permits)  # as another worker does with what a silent one holds
            assert granted([Permit(other, token, 1, [ONE], 0)]) == [None]
            started.renewed = time.monotonic()
        return answers

    limiters.acquire_all = acquire_all  # type: ignore[method-assign]
    with pytest.raises(Waiting, match="1 of 1 run"):
        started.hold(lambda: pytest.fail("two hold the only permit"))


def test_p4_result_is_kept_while_the_database_takes_its_time(runtime: Runtime, asynchronous: bool) -> None:
    started = Started(runtime, Bench(runtime.settings.redis.dsn), asynchronous)
    go_on = threading.Event()
    finish = runtime.ledger.finish_step

    def stalls(*args: Any) -> None:
        assert go_on.wait(60)
        finish(*args)

    runtime.ledger.finish_step = stalls  # type: ignore[method-assign]
    step = threading.Thread(target=started.step)
    step.start()
    poll(lambda: results(runtime) == 1, timeout=10, message="Redis has the answer")
    go_on.set()
    step.join(60)
    assert [row.state for row in runtime.ledger.steps(started.id)] == ["done"]
    assert results(runtime) == 0


def test_p4_release_of_a_permit_delays_no_checkpoint(
    tmp_path: Path, own_redis: RedisServer, asynchronous: bool
) -> None:
    with runtime_of(f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url) as runtime:
        started = Started(runtime, Bench(own_redis.url), asynchronous)

        def paid() -> str:
            with started.context.acquire(ONE):  # type: ignore[attr-defined]
                own_redis.pause()
            return "answer"

        async def paid_async() -> str:
            async with started.context.acquire(ONE):  # type: ignore[attr-defined]
                own_redis.pause()
            return "answer"

        def run() -> None:
            if isinstance(started.context, Context):
                started.context.step("paid", paid)
            else:
                asyncio.run(started.context.step("paid", paid_async))

        running = threading.Thread(target=run)
        running.start()
        try:
            poll(lambda: [row.state for row in runtime.ledger.steps(started.id)] == ["done"], timeout=10)
            assert running.is_alive(), "the release is waited for afterwards"
        finally:
            own_redis.resume()
            running.join(60)


def test_p4_cancelled_attempt_still_writes_its_result(runtime: Runtime) -> None:
    started = Started(runtime, Bench(runtime.settings.redis.dsn), True)
    begun, finish = threading.Event(), runtime.ledger.finish_step

    def slowly(*args: Any) -> None:
        begun.set()
        time.sleep(0.2)
        finish(*args)

    runtime.ledger.finish_step = slowly  # type: ignore[method-assign]

    async def run() -> None:
        assert isinstance(started.context, AsyncContext)
        step = asyncio.ensure_future(started.context.step("paid", functools.partial(asyncio.sleep, 0, "answer")))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        step.cancel()  # as a stopping worker does
        with pytest.raises(asyncio.CancelledError):
            await step
        assert [row.state for row in runtime.ledger.steps(started.id)] == ["done"]

    asyncio.run(run())


def test_cancelled_attempt_whose_result_is_refused_warns_of_nothing(runtime: Runtime) -> None:
    started = Started(runtime, Bench(runtime.settings.redis.dsn), True)
    begun, warned = threading.Event(), list[dict[str, Any]]()

    def refused(*_: Any) -> None:
        begun.set()
        time.sleep(0.2)
        raise Lost("another attempt has it")

    runtime.ledger.finish_step = refused  # type: ignore[method-assign]

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: warned.append(context))
        assert isinstance(started.context, AsyncContext)
        step = asyncio.ensure_future(started.context.step("paid", functools.partial(asyncio.sleep, 0, "answer")))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        del step
        gc.collect()

    asyncio.run(run())
    gc.collect()
    assert warned == []


@pytest.mark.parametrize(("liveness", "most"), [("1200ms", 0.4), ("3s", 1.0), ("60s", 5.0)])
def test_a_call_of_redis_takes_at_most_a_third_of_the_lease(
    tmp_path: Path, own_redis: RedisServer, liveness: str, most: float, asynchronous: bool
) -> None:
    database_url = f"sqlite:///{tmp_path / 'sytq.db'}"
    with runtime_of(database_url, own_redis.url, WORKER__LIVENESS=liveness, WORKER__HEARTBEAT="100ms") as runtime:
        assert runtime.settings.worker.redis_timeout == pytest.approx(most)
        if most > 1:
            return  # of no interest here but that it is not longer
        started = Started(runtime, Bench(own_redis.url), asynchronous)
        ctx = started.context
        own_redis.pause()
        try:
            for call in (lambda: ctx.progress(1, 2), lambda: ctx.pause_limiter("g", "no credit")):
                began = time.monotonic()
                with contextlib.suppress(RedisUnavailable):
                    asyncio.run(call()) if asynchronous else call()
                assert most - 0.1 < time.monotonic() - began < most + 0.6
            began = time.monotonic()
            assert started.step() == "answer"
            assert time.monotonic() - began < most + 1, "it has looked for a result in Redis, and written this one"
        finally:
            own_redis.resume()
