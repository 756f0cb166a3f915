"""The `ctx` of every plugin function: `Context` on a thread, `AsyncContext` on the event loop, with the same methods.

Must not decide what a failure means: that is worker/middleware/retry.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import peewee
from dramatiq.middleware import TimeLimit
from typing_extensions import Unpack

from sytq.broker.delivery import Delivery
from sytq.broker.limiter import Limiter, Permit
from sytq.executor.attempt import Attempt, Services
from sytq.executor.transaction import Child, Transaction
from sytq.service.tree import Outcome, outcomes
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType

if TYPE_CHECKING:
    from sytq.http import BlockingClient, Client

T = TypeVar("T")


class Context(Attempt):
    """The context of a plain function."""

    def __init__(
        self, services: Services, declared: TaskType, delivery: Delivery, limit: TimeLimit | None = None
    ) -> None:
        super().__init__(services, declared, delivery)
        self._limit = limit  # interrupts the thread that constructs this context
        self._thread = threading.get_ident()
        self._deadline = time.monotonic() + self.timeout

    def remaining(self) -> float:
        """The seconds left of this run's time limit, 0 when it is over: the deadline for what the task waits for."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def http(self) -> BlockingClient:
        """The guarded HTTP client; no call through it outlasts the run's time limit."""
        return self._services.blocking_client.within(self.remaining)

    def progress(self, done: int, of: int | None = None, text: str = "") -> None:
        """Show how far the task is. Raises Lost when another worker holds the task now."""
        self._progress(done, of, text)

    def transaction(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one SQL transaction that commits only while this start holds the task. Raises Lost.

        `work` may run several times (deadlock), so it changes nothing but the database.
        """
        return self._transaction(work)

    def read(self, work: Callable[[peewee.Database], T]) -> T:
        """Run `work(database)`, which only reads, on one connection without a transaction; it may run several times."""
        return self._read(work)

    def enqueue(self, type_name: str, payload: object, **options: Unpack[Child]) -> str:
        """Submit a child task and return its id, as `Transaction.enqueue`. Errors as `transaction`."""
        return self._transaction(lambda tx: tx.enqueue(type_name, payload, **options))

    def enqueue_many(self, type_name: str, payloads: Mapping[str, object]) -> list[str]:
        """Submit a child task for each key and payload and return their ids. Errors as `transaction`."""
        return self._transaction(lambda tx: tx.enqueue_many(type_name, payloads))

    def outcomes(self) -> list[Outcome]:
        """How the tasks have ended that this one waited for (its `after`), in that order."""
        return self._read(lambda database: outcomes(self.id))

    @contextlib.contextmanager
    def acquire(self, *limiters: Limiter, cost: int = 0) -> Iterator[Permit]:
        """Acquire a permit of all `limiters` at once, of this `cost`; release it at the end of the `with` block.

        Raises Waiting when a limiter has none free. Waiting is a Retry that must reach the worker: the task then waits
        in Redis, holds no slot, uses no attempt, and starts again as soon as a permit is reserved for it. Raises
        RedisUnavailable (no attempt).
        """
        permit, limits = self._permit(limiters, cost), self._services.limiters
        limits.acquire(permit)
        try:
            yield permit
        finally:
            limits.release(permit)

    def pause_limiter(
        self, name: str, reason: str, *, seconds: float | None = None, alert: bool = True, configuration: str = ""
    ) -> bool:
        """Pause a limiter until `resume_limiter`, a person resumes it, or `seconds` later; `alert` logs an error.

        With a `configuration` (a fingerprint of what was refused, as a key) the pause ends when it is another one.
        False when it was paused already. Raises RedisUnavailable.
        """
        return self._pause_limiter(name, reason, seconds, alert, configuration)

    def resume_limiter(self, name: str) -> bool:
        """Undo `pause_limiter`, of this or another task; False when the limiter was not paused, or by a person."""
        return self._resume_limiter(name)

    def turn(self) -> None:
        """Go on once every task accepted before this one that has its ordering key has ended; until then the task
        waits without using an attempt (raises Waiting)."""
        self._turn()

    def step(self, name: str, function: Callable[[], T], also: Callable[[], None] | None = None) -> T:
        """Run `function` once in the task's life and replay its recorded result (a JSON value) ever after.

        What `also` writes to the database, it writes in the transaction that records the result.
        """
        step = self._checkpoint(name)
        step.look()
        step.begin()
        if step.result is not None:
            value: T = json.loads(step.result)
        else:
            try:
                value = function()
            except Exception:
                step.forget()
                raise
            step.result = encode(value)
        if not step.done:
            with self._off_the_clock():
                while pause := step.write(also):
                    time.sleep(pause)
        return value

    @contextlib.contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """Suspend the time limit while a result is written."""
        if self._limit is None:
            yield
            return
        began = time.monotonic()
        self._limit.manager.remove_timeout(self._thread)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            now = time.monotonic()
            self._deadline += now - began
            left = (self._deadline - now) * 1000
            self._limit.manager.add_timeout(self._thread, left)  # type: ignore[no-untyped-call]


class AsyncContext(Attempt):
    """The context of an async function: as `Context`, with `await`."""

    def __init__(
        self, services: Services, declared: TaskType, delivery: Delivery, deadline: asyncio.Timeout | None = None
    ) -> None:
        super().__init__(services, declared, delivery)
        self._deadline = deadline
        self._keeping = 0  # number of step results being written: several steps may run at once
        self._left = 0.0  # seconds left of the time limit when the first write began

    def remaining(self) -> float:
        """As `Context.remaining`."""
        if self._deadline is None:
            return self.timeout
        ends = self._deadline.when()
        return self._left if ends is None else max(0.0, ends - time.monotonic())  # monotonic is the loop's clock too

    @property
    def http(self) -> Client:
        """The guarded HTTP client."""
        return self._services.client

    async def progress(self, done: int, of: int | None = None, text: str = "") -> None:
        """As `Context.progress`."""
        await self._ask_redis(self._progress, done, of, text)

    async def transaction(self, work: Callable[[Transaction], T]) -> T:
        """As `Context.transaction`; `work` is a plain function and runs on a thread."""
        return await self.blocking(self._transaction, work)

    async def read(self, work: Callable[[peewee.Database], T]) -> T:
        """As `Context.read`; `work` is a plain function and runs on a thread."""
        return await self.blocking(self._read, work)

    async def enqueue(self, type_name: str, payload: object, **options: Unpack[Child]) -> str:
        """As `Context.enqueue`."""
        return await self.transaction(lambda tx: tx.enqueue(type_name, payload, **options))

    async def enqueue_many(self, type_name: str, payloads: Mapping[str, object]) -> list[str]:
        """As `Context.enqueue_many`."""
        return await self.transaction(lambda tx: tx.enqueue_many(type_name, payloads))

    async def outcomes(self) -> list[Outcome]:
        """As `Context.outcomes`."""
        return await self.read(lambda database: outcomes(self.id))

    @contextlib.asynccontextmanager
    async def acquire(self, *limiters: Limiter, cost: int = 0) -> AsyncIterator[Permit]:
        """Acquire a permit of all `limiters` at once, of this `cost`; release it at the end of the `async with` block.

        Raises as `Context.acquire` does.
        """
        permit, permits = self._permit(limiters, cost), self._services.permits
        try:
            await permits.acquire(permit)
            yield permit
        finally:
            await permits.release(permit)

    async def pause_limiter(
        self, name: str, reason: str, *, seconds: float | None = None, alert: bool = True, configuration: str = ""
    ) -> bool:
        """As `Context.pause_limiter`."""
        return await self._ask_redis(self._pause_limiter, name, reason, seconds, alert, configuration)

    async def resume_limiter(self, name: str) -> bool:
        """Undo `pause_limiter`, of this or another task; False when the limiter was not paused, or by a person."""
        return await self._ask_redis(self._resume_limiter, name)

    async def turn(self) -> None:
        """As `Context.turn`."""
        await self.blocking(self._turn)

    async def step(self, name: str, function: Callable[[], Awaitable[T]], also: Callable[[], None] | None = None) -> T:
        """As `Context.step`; `function` is async, `also` a plain function that runs on a thread."""
        step = self._checkpoint(name)
        await self._ask_redis(step.look)
        await self.blocking(step.begin)
        if step.result is not None:
            value: T = json.loads(step.result)
        else:
            try:
                value = await function()
            except Exception:
                await self.blocking(step.forget)
                raise
            step.result = encode(value)
        if not step.done:
            with self._off_the_clock():
                while pause := await self.blocking(step.write, also):
                    await asyncio.sleep(pause)
        return value

    async def blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a short blocking `function` on the process's small thread pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._services.threads, functools.partial(function, *args))

    async def _ask_redis(self, function: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._services.redis_threads, functools.partial(function, *args))

    @contextlib.contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        if self._deadline is None or self._deadline.expired():
            yield
            return
        now = asyncio.get_running_loop().time
        if not self._keeping:
            self._left = (self._deadline.when() or now()) - now()
            self._deadline.reschedule(None)
        self._keeping += 1
        try:
            yield
        finally:
            self._keeping -= 1
            if not self._keeping and not self._deadline.expired():
                self._deadline.reschedule(now() + self._left)
