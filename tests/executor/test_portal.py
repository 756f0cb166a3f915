"""A plain function on its thread, and what it waits for on the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.threading import Interrupt

from sytq.errors import TimedOut
from sytq.executor.deadline import Deadline
from sytq.executor.portal import Portal
from sytq.executor.threads import Call, Threads
from tests.executor.test_checkpoint import event_loop
from tests.plugins.deliveries import started
from tests.servers import poll


class Pool:
    """One thread, and what runs on it."""

    def __init__(self) -> None:
        self.loop = event_loop()
        self.threads = Threads(self.loop)
        self.threads.start(1)
        self.portal = Portal(self.loop)
        self.task: asyncio.Task[None] | None = None
        self.delivery = started({})

    def start(self, function: Callable[[], None], seconds: float = 60.0) -> Future[None]:
        """Run a function as the only attempt of a worker."""
        self.portal = Portal(self.loop)
        self.delivery = delivery = started({})

        async def attempt() -> None:
            self.task = asyncio.current_task()
            with Deadline(seconds) as deadline:

                def call() -> None:
                    deadline.begin()
                    function()

                await self.threads.run(Call(delivery, deadline, self.portal, call))

        return asyncio.run_coroutine_threadsafe(attempt(), self.loop)

    def cancel(self) -> None:
        assert self.task is not None
        self.loop.call_soon_threadsafe(self.task.cancel)

    def tick(self) -> None:
        self.loop.call_soon_threadsafe(self.threads.look)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.threads.stop()
    poll(lambda: not any(thread.is_alive() for thread in made.threads.threads))


def spin() -> None:
    while True:
        time.sleep(0.001)


def test_function_waits_for_coroutines_and_these_for_functions(pool: Pool) -> None:
    found: list[Any] = []

    async def answer(function: Callable[[], Any]) -> Any:
        return threading.get_ident(), await pool.portal.call(function)

    def run() -> None:
        own = threading.get_ident()
        on_loop, nested = pool.portal.wait(answer(lambda: pool.portal.wait(answer(threading.get_ident))))
        found.extend([on_loop != own, nested[0] == on_loop, nested[1] == own])
        with pytest.raises(KeyError):
            pool.portal.wait(answer(lambda: {}["missing"]))

    pool.start(run).result(30)
    assert found == [True, True, True]


def test_function_that_exits_ends_neither_its_thread_nor_the_event_loop(pool: Pool) -> None:
    async def step(function: Callable[[], None]) -> None:
        await pool.portal.call(function)

    seen: list[type[BaseException]] = []

    def run() -> None:
        for error in (SystemExit, KeyboardInterrupt, StopIteration):
            try:
                pool.portal.wait(step(lambda error=error: raises(error)))
            except BaseException as raised:
                seen.append(type(raised))

    pool.start(run).result(30)
    assert seen == [SystemExit, KeyboardInterrupt, RuntimeError]


def raises(error: type[BaseException]) -> None:
    raise error


def test_another_thread_of_the_function_may_wait_too(pool: Pool) -> None:
    found: list[int] = []

    async def answer() -> int:
        return await pool.portal.call(threading.get_ident)

    def run() -> None:
        helper = threading.Thread(target=lambda: found.append(pool.portal.wait(answer())))
        helper.start()
        helper.join(30)
        found.append(helper.ident or 0)

    pool.start(run).result(30)
    assert found[0] == found[1]


def test_cancellation_reaches_what_runs_now(pool: Pool) -> None:
    """Python code, a coroutine that it waits for, and both within an async context manager, which is left."""
    at, ended = threading.Event(), list[str]()

    async def hang() -> None:
        at.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("coroutine")

    @contextlib.asynccontextmanager
    async def step() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            ended.append("step")

    def plain() -> None:
        at.set()
        spin()

    def waiting() -> None:
        pool.portal.wait(hang())

    def inside() -> None:
        with pool.portal.entered(step()):
            plain()

    def inside_waiting() -> None:
        with pool.portal.entered(step()):
            waiting()

    for function in (plain, waiting, inside, inside_waiting):
        at.clear()

        def run(function: Callable[[], None] = function) -> None:
            try:
                function()
            except Interrupt:
                ended.append(function.__name__)
                raise

        attempt = pool.start(run)
        assert at.wait(30)
        pool.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            attempt.result(30)
    assert ended == ["plain", "coroutine", "waiting", "step", "inside", "coroutine", "step", "inside_waiting"]


def test_function_that_polls_ends_by_itself_or_after_its_grace(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    at, asked = threading.Event(), threading.Event()

    def run(wait: Callable[[], object]) -> None:
        pool.delivery.polls = True
        at.set()
        wait()

    attempt = pool.start(lambda: run(lambda: asked.wait(30)))
    assert at.wait(30)
    pool.cancel()
    pool.loop.call_soon_threadsafe(pool.loop.call_soon, asked.set)  # after the cancellation has arrived
    assert attempt.result(30) is None

    for grace, returned in ((0.01, ""), (60.0, "the worker is stopping")):
        monkeypatch.setattr("sytq.executor.threads._GRACE", grace)
        at.clear()
        attempt = pool.start(lambda: run(spin))
        assert at.wait(30)
        pool.delivery.returned = returned
        pool.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            attempt.result(30)


def test_deadline_interrupts_a_function_once_it_is_armed(pool: Pool) -> None:
    seen: list[type[BaseException]] = []

    def run() -> None:
        try:
            spin()
        except BaseException as error:
            seen.append(type(error))
            raise

    attempt = pool.start(run, seconds=0.05)
    poll(lambda: pool.tick() or attempt.done())
    with pytest.raises(TimedOut, match=r"timed out after 0\.05 s"):
        attempt.result(0)
    assert seen == [TimeLimitExceeded]


def test_blocking_work_of_a_coroutine_is_not_interrupted(pool: Pool) -> None:
    at, go, done = threading.Event(), threading.Event(), list[str]()

    async def commit() -> None:
        def write() -> None:
            at.set()
            assert go.wait(30)
            time.sleep(0.01)
            done.append("written")

        await pool.portal.call(write)

    attempt = pool.start(lambda: pool.portal.wait(commit()))
    assert at.wait(30)
    pool.cancel()
    go.set()
    with pytest.raises(concurrent.futures.CancelledError):
        attempt.result(30)
    assert done == ["written"]


def test_function_that_ends_in_spite_of_its_interruption_has_ended(pool: Pool) -> None:
    at = threading.Event()

    def run() -> None:
        at.set()
        try:
            spin()
        except Interrupt:
            return

    attempt = pool.start(run)
    assert at.wait(30)
    pool.cancel()
    assert attempt.result(30) is None


def test_no_interruption_outlives_its_function_or_keeps_what_it_acquired(pool: Pool) -> None:
    held = 0

    @contextlib.asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        nonlocal held
        await pool.portal.call(lambda: None)
        held += 1
        try:
            yield
        finally:
            held -= 1

    for seed in range(300):
        chance = random.Random(seed)

        def run(waits: int = chance.randrange(4)) -> None:
            for _ in range(waits):
                with pool.portal.entered(nothing()):
                    pass

        attempt = pool.start(run)
        time.sleep(chance.random() * 0.0005)
        pool.loop.call_soon_threadsafe(lambda: pool.task and pool.task.cancel())
        with contextlib.suppress(concurrent.futures.CancelledError):
            attempt.result(30)
        assert held == 0, seed
    assert [thread.is_alive() for thread in pool.threads.threads] == [True]


def test_waiting_function_goes_back_and_is_never_begun(pool: Pool) -> None:
    at, go, begun = threading.Event(), threading.Event(), list[int]()
    first = pool.start(lambda: (at.set(), go.wait(30), None)[2])
    assert at.wait(30)
    second = pool.start(lambda: begun.append(1))
    poll(lambda: not pool.threads._waiting.empty())
    pool.loop.call_soon_threadsafe(pool.threads.return_waiting, "the worker is stopping")
    with pytest.raises(concurrent.futures.CancelledError):
        second.result(30)
    go.set()
    first.result(30)
    assert begun == []


def test_only_types_that_end_within_moments_are_taken_ahead(pool: Pool) -> None:
    assert pool.threads.ahead(["webhook"]) == 0, "nothing is known of it"
    for _ in range(5):
        pool.start(lambda: None).result(30)
    assert pool.threads.ahead(["webhook"]) == 50
    assert pool.threads.ahead(["webhook", "unknown"]) == 50
    pool.threads._seconds["slow"] = 120.0
    assert pool.threads.ahead(["webhook", "slow"]) == 0
    at, go = threading.Event(), threading.Event()
    busy = pool.start(lambda: (at.set(), go.wait(30), None)[2])
    assert at.wait(30)
    poll(lambda: pool.threads.ahead(["webhook"]) == 0, message="its only thread is busy")
    go.set()
    busy.result(30)
