"""The `ctx` of plain functions: `AsyncContext` through a portal. Written by tools/blocking_context.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import peewee
from typing_extensions import Unpack

from sytq.broker.limiter import Limiter, Permit
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Attempt
from sytq.executor.portal import Portal
from sytq.executor.transaction import Child, Transaction
from sytq.service.tree import Outcome

if TYPE_CHECKING:
    from sytq.http import BlockingClient

T = TypeVar("T")


class Context(Attempt):
    """The context of a plain function."""

    def __init__(self, awaited: AsyncContext, portal: Portal) -> None:
        vars(self).update(vars(awaited))  # what an attempt has does not change
        self._awaited, self._through = awaited, portal

    def remaining(self) -> float:
        """The seconds left of this run's time limit, 0 when it is over: the deadline for what the task waits for."""
        return self._awaited.remaining()

    @property
    def http(self) -> BlockingClient:
        """The guarded HTTP client."""
        from sytq.http import BlockingClient

        return BlockingClient(self._services.client, self._through.wait, self.remaining)

    def progress(self, done: int, of: int | None = None, text: str = "") -> None:
        """Show how far the task is. Raises Lost when another worker holds the task now."""
        self._through.wait(self._awaited.progress(done, of, text))

    def verify_lease(self) -> None:
        """Return if the worker's lease is valid and has been since Redis last said that this attempt holds the task.

        Else ask again, for at most the length of a lease. A step and `acquire` have done so; call it before each
        further call that costs money. Raises Lost, and RedisUnavailable (no attempt).
        """
        self._through.wait(self._awaited.verify_lease())

    def transaction(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, a plain function, in one SQL transaction that commits only while this start holds the task.

        `work` may run several times (deadlock), so it changes nothing but the database. Raises Lost.
        """
        return self._through.wait(self._awaited.transaction(work))

    def read(self, work: Callable[[peewee.Database], T]) -> T:
        """Run `work(database)`, a plain function that only reads, on one connection without a transaction; it may run
        several times."""
        return self._through.wait(self._awaited.read(work))

    def enqueue(self, type_name: str, payload: object, **options: Unpack[Child]) -> str:
        """Submit a child task and return its id, as `Transaction.enqueue`. Errors as `transaction`."""
        return self._through.wait(self._awaited.enqueue(type_name, payload, **options))

    def enqueue_many(self, type_name: str, payloads: Mapping[str, object]) -> list[str]:
        """Submit a child task for each key and payload and return their ids. Errors as `transaction`."""
        return self._through.wait(self._awaited.enqueue_many(type_name, payloads))

    def outcomes(self) -> list[Outcome]:
        """How the tasks have ended that this one waited for (its `after`), in that order."""
        return self._through.wait(self._awaited.outcomes())

    @contextlib.contextmanager
    def acquire(self, *limiters: Limiter, cost: int = 0) -> Iterator[Permit]:
        """Acquire a permit of all `limiters` at once, of this `cost`; release it at the end of the `with` block.

        Inside a step nothing waits for the release, as the step's result comes first. Raises Waiting when a limiter has
        none free. Waiting is a Retry that must reach the worker: the task then waits in Redis, holds no slot, uses no
        attempt, and starts again as soon as a permit is reserved for it. Raises RedisUnavailable (no attempt).
        """
        with self._through.entered(self._awaited.acquire(*limiters, cost=cost)) as entered:
            yield entered

    def pause_limiter(
        self, name: str, reason: str, *, seconds: float | None = None, alert: bool = True, configuration: str = ""
    ) -> bool:
        """Pause a limiter until `resume_limiter`, a person resumes it, or `seconds` later; `alert` logs an error.

        With a `configuration` (a fingerprint of what was refused, as a key) the pause ends when it is another one.
        False when it was paused already. Raises RedisUnavailable.
        """
        return self._through.wait(
            self._awaited.pause_limiter(name, reason, seconds=seconds, alert=alert, configuration=configuration)
        )

    def resume_limiter(self, name: str) -> bool:
        """Undo `pause_limiter`, of this or another task; False when the limiter was not paused, or by a person."""
        return self._through.wait(self._awaited.resume_limiter(name))

    def turn(self) -> None:
        """Go on once every task accepted before this one that has its ordering key has ended; until then the task
        waits without using an attempt (raises Waiting)."""
        self._through.wait(self._awaited.turn())

    def step(self, name: str, function: Callable[[], T], also: Callable[[], None] | None = None) -> T:
        """Run `function` once in the task's life and replay its recorded result (a JSON value) ever after.

        What `also`, a plain function, writes to the database, it writes in the transaction that records the result.
        """
        return self._through.wait(self._awaited.step(name, self._through.awaitable(function), also))
