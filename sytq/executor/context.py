"""The `ctx` of plain functions, on a thread; `AsyncContext` (async_context.py) has the same methods.

Must not decide what a failure means: that is worker/middleware/retry.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import peewee
from dramatiq.middleware import TimeLimit
from typing_extensions import Unpack

from sytq.broker.delivery import Delivery
from sytq.broker.limiter import Limiter, Permit
from sytq.errors import Waiting
from sytq.executor.attempt import Attempt, Services
from sytq.executor.transaction import Child, Transaction
from sytq.executor.waits import wait_on_thread
from sytq.service.tree import Outcome, outcomes
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType

if TYPE_CHECKING:
    from sytq.http import BlockingClient

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
        self._releasing: list[concurrent.futures.Future[None]] = []  # permits that this step has given back

    def remaining(self) -> float:
        """The seconds left of this run's time limit, 0 when it is over: the deadline for what the task waits for."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def http(self) -> BlockingClient:
        """The guarded HTTP client; no call through it outlasts the run's time limit."""
        return self._services.blocking_client.within(self.remaining)

    def progress(self, done: int, of: int | None = None, text: str = "") -> None:
        """Show how far the task is. Raises Lost when another worker holds the task now."""
        wait_on_thread(self._progress(done, of, text))

    def verify_lease(self) -> None:
        """Return if the worker's lease is valid and has been since Redis last said that this attempt holds the task.

        Else ask again, for at most the length of a lease. A step and `acquire` have done so; call it before each
        further call that costs money. Raises Lost, and RedisUnavailable (no attempt).
        """
        wait_on_thread(self._verify_lease())

    def transaction(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one SQL transaction that commits only while this start holds the task. Raises Lost.

        `work` may run several times (deadlock), so it changes nothing but the database.
        """
        value, tasks = self._transaction(work)
        wait_on_thread(self._dispatch(tasks))
        return value

    def read(self, work: Callable[[peewee.Database], T]) -> T:
        """Run `work(database)`, which only reads, on one connection without a transaction; it may run several times."""
        return self._read(work)

    def enqueue(self, type_name: str, payload: object, **options: Unpack[Child]) -> str:
        """Submit a child task and return its id, as `Transaction.enqueue`. Errors as `transaction`."""
        return self.transaction(lambda tx: tx.enqueue(type_name, payload, **options))

    def enqueue_many(self, type_name: str, payloads: Mapping[str, object]) -> list[str]:
        """Submit a child task for each key and payload and return their ids. Errors as `transaction`."""
        return self.transaction(lambda tx: tx.enqueue_many(type_name, payloads))

    def outcomes(self) -> list[Outcome]:
        """How the tasks have ended that this one waited for (its `after`), in that order."""
        return self._read(lambda database: outcomes(self.id))

    @contextlib.contextmanager
    def acquire(self, *limiters: Limiter, cost: int = 0) -> Iterator[Permit]:
        """Acquire a permit of all `limiters` at once, of this `cost`; release it at the end of the `with` block.

        Inside a step nothing waits for the release, as the step's result comes first. Raises Waiting when a limiter has
        none free. Waiting is a Retry that must reach the worker: the task then waits in Redis, holds no slot, uses no
        attempt, and starts again as soon as a permit is reserved for it. Raises RedisUnavailable (no attempt).
        """
        permit, limits, asked = self._permit(limiters, cost), self._services.limiters, time.monotonic()
        self._await_releases()
        try:
            try:
                while not self._is_granted(permit):
                    self.verify_lease()
                    limits.acquire(permit)
            except Waiting as refusal:
                self._refused(refusal)
                raise
            self._granted(permit, asked)
            yield permit
        finally:
            if permit is not self._delivery.permit:
                self._releasing.append(self._services.redis_threads.submit(limits.release, permit))
            if not self._steps:
                self._await_releases()

    def _await_releases(self) -> None:
        concurrent.futures.wait(self._releasing, self.settings.worker.redis_timeout)
        self._releasing.clear()

    def pause_limiter(
        self, name: str, reason: str, *, seconds: float | None = None, alert: bool = True, configuration: str = ""
    ) -> bool:
        """Pause a limiter until `resume_limiter`, a person resumes it, or `seconds` later; `alert` logs an error.

        With a `configuration` (a fingerprint of what was refused, as a key) the pause ends when it is another one.
        False when it was paused already. Raises RedisUnavailable.
        """
        return wait_on_thread(self._ask_redis(self._pause_limiter, name, reason, seconds, alert, configuration))

    def resume_limiter(self, name: str) -> bool:
        """Undo `pause_limiter`, of this or another task; False when the limiter was not paused, or by a person."""
        return wait_on_thread(self._ask_redis(self._resume_limiter, name))

    def turn(self) -> None:
        """Go on once every task accepted before this one that has its ordering key has ended; until then the task
        waits without using an attempt (raises Waiting)."""
        self._turn()

    def step(self, name: str, function: Callable[[], T], also: Callable[[], None] | None = None) -> T:
        """Run `function` once in the task's life and replay its recorded result (a JSON value) ever after.

        What `also` writes to the database, it writes in the transaction that records the result.
        """
        step = self._checkpoint(name)
        wait_on_thread(self._look(step, name))
        step.begin()
        if step.done:
            value: T = json.loads(step.result or "null")
            return value
        self._steps += 1
        try:
            if step.result is not None:
                value = json.loads(step.result)
            else:
                try:
                    self.verify_lease()
                    value = function()
                except Exception:
                    step.forget()
                    raise
                step.result = encode(value)
            with self._off_the_clock():
                wait_on_thread(step.save(also))
        finally:
            self._steps -= 1
            self._await_releases()
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
