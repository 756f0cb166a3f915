"""The `ctx` of async functions, on the event loop: as `Context` (context.py), with `await`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import peewee
from typing_extensions import Unpack

from sytq.broker.delivery import Delivery
from sytq.broker.limiter import Limiter, Permit
from sytq.errors import Waiting
from sytq.executor.attempt import Attempt, Services
from sytq.executor.checkpoint import Checkpoint
from sytq.executor.transaction import Child, Transaction
from sytq.executor.waits import retrieve, wait_on_loop
from sytq.ledger.insert import NewTask
from sytq.service.tree import Outcome, outcomes
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType

if TYPE_CHECKING:
    from sytq.http import Client

T = TypeVar("T")

#: Seconds that a cancelled task, or one that a stopping worker returns, goes on writing the result of its step.
_LAST_WRITE = 3.0


class AsyncContext(Attempt):
    """The context of an async function: as `Context`, with `await`."""

    def __init__(
        self, services: Services, declared: TaskType, delivery: Delivery, deadline: asyncio.Timeout | None = None
    ) -> None:
        super().__init__(services, declared, delivery)
        self._deadline = deadline
        self._keeping = 0  # number of step results being written: several steps may run at once
        self._releasing: set[asyncio.Future[None]] = set()  # permits that steps have given back
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
        await wait_on_loop(self._progress(done, of, text))

    async def verify_lease(self) -> None:
        """As `Context.verify_lease`."""
        await wait_on_loop(self._verify_lease())

    async def transaction(self, work: Callable[[Transaction], T]) -> T:
        """As `Context.transaction`; `work` is a plain function and runs on a thread."""
        done: tuple[T, Sequence[NewTask]] = await self.blocking(self._transaction, work)
        value, tasks = done
        await wait_on_loop(self._dispatch(tasks))
        return value

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
        permit, permits, asked = self._permit(limiters, cost), self._services.permits, time.monotonic()
        try:
            try:
                while not self._is_granted(permit):
                    await self.verify_lease()
                    await permits.acquire(permit)
            except Waiting as refusal:
                self._refused(refusal)
                raise
            self._granted(permit, asked)
            yield permit
        finally:
            if permit is not self._delivery.permit:
                self._releasing.add(permits.release(permit))
            if not self._steps:
                await self._await_releases()

    async def _await_releases(self) -> None:
        releasing, self._releasing = self._releasing, set()
        if releasing:
            await asyncio.wait(releasing, timeout=self.settings.worker.redis_timeout)

    async def pause_limiter(
        self, name: str, reason: str, *, seconds: float | None = None, alert: bool = True, configuration: str = ""
    ) -> bool:
        """As `Context.pause_limiter`."""
        return await wait_on_loop(self._ask_redis(self._pause_limiter, name, reason, seconds, alert, configuration))

    async def resume_limiter(self, name: str) -> bool:
        """Undo `pause_limiter`, of this or another task; False when the limiter was not paused, or by a person."""
        return await wait_on_loop(self._ask_redis(self._resume_limiter, name))

    async def turn(self) -> None:
        """As `Context.turn`."""
        await self.blocking(self._turn)

    async def step(self, name: str, function: Callable[[], Awaitable[T]], also: Callable[[], None] | None = None) -> T:
        """As `Context.step`; `function` is async, `also` a plain function that runs on a thread."""
        step = self._checkpoint(name)
        await wait_on_loop(self._look(step, name))
        await self.blocking(step.begin)
        if step.done:
            value: T = json.loads(step.result or "null")
            return value
        self._steps += 1
        try:
            if step.result is not None:
                value = json.loads(step.result)
            else:
                try:
                    await self.verify_lease()
                    value = await function()
                except Exception:
                    await self.blocking(step.forget)
                    raise
                step.result = encode(value)
            with self._off_the_clock():
                await self._save(step, also)
        finally:
            self._steps -= 1
            if not self._steps:
                await self._await_releases()
        return value

    async def _save(self, step: Checkpoint, also: Callable[[], None] | None) -> None:
        saving = asyncio.ensure_future(wait_on_loop(step.save(also)))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            saving.add_done_callback(retrieve)  # nobody else reads it: the attempt is over
            await asyncio.wait((saving,), timeout=_LAST_WRITE)  # the result may be paid for
            raise

    async def blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a short blocking `function` on the process's small thread pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._services.threads, functools.partial(function, *args))

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
