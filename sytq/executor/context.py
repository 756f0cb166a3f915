"""The `ctx` of plain functions: `AsyncContext`, whose methods run on the event loop while the function waits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sytq.broker.limiter import Limiter, Permit
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Attempt
from sytq.executor.portal import Portal
from sytq.executor.transaction import Transaction

if TYPE_CHECKING:
    from sytq.http.client import BlockingClient

T = TypeVar("T")
P = ParamSpec("P")


def _waiting(
    method: Callable[Concatenate[AsyncContext, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Context, P], T]:
    """Return the method for plain functions."""

    def call(self: Context, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.wait(method(self._awaited, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


class Context(Attempt):
    """The context of a plain function."""

    def __init__(self, awaited: AsyncContext, portal: Portal) -> None:
        vars(self).update(vars(awaited))  # what an attempt has does not change
        self._awaited, self._portal = awaited, portal

    @property
    def http(self) -> BlockingClient:
        """The guarded HTTP client."""
        from sytq.http.client import BlockingClient

        return BlockingClient(self._services.client, self._portal.wait, self.remaining)

    progress = _waiting(AsyncContext.progress)
    verify_lease = _waiting(AsyncContext.verify_lease)
    transaction = _waiting(AsyncContext.transaction)
    read = _waiting(AsyncContext.read)
    enqueue = _waiting(AsyncContext.enqueue)
    enqueue_many = _waiting(AsyncContext.enqueue_many)
    outcomes = _waiting(AsyncContext.outcomes)
    pause_limiter = _waiting(AsyncContext.pause_limiter)
    resume_limiter = _waiting(AsyncContext.resume_limiter)
    turn = _waiting(AsyncContext.turn)

    @contextlib.contextmanager
    def acquire(self, *limiters: Limiter, cost: int = 0) -> Iterator[Permit]:
        with self._portal.entered(self._awaited.acquire(*limiters, cost=cost)) as permit:
            yield permit

    def step(
        self,
        name: str,
        function: Callable[[], T],
        also: Callable[[], None] | None = None,
        *,
        begin: Callable[[Transaction, bool], None] | None = None,
        end: Callable[[Transaction, T], None] | None = None,
        mark: str | None = None,
    ) -> T:
        with self._portal.entered(self._awaited._checkpoint(name, also, begin, end, mark)) as step:
            if step.result is None:
                step.value = function()
        value: T = step.value
        return value

    acquire.__doc__, step.__doc__ = AsyncContext.acquire.__doc__, AsyncContext.step.__doc__
