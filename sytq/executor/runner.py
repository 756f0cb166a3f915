"""Calls a type's function for a delivery, with its context and the type's own middleware."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator

from dramatiq.middleware import TimeLimit, TimeLimitExceeded

from sytq.broker.delivery import Delivery
from sytq.errors import TimedOut
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Services
from sytq.executor.context import Context
from sytq.executor.hooks import Hooks
from sytq.executor.threads import Threads
from sytq.tasktypes.tasktype import TaskType


class Runner:
    """`hooks` are those of middleware that may need the thread of the function, as any may that a plugin brings."""

    def __init__(self, services: Services, threads: Threads, hooks: Hooks, limit: TimeLimit | None = None) -> None:
        self._services = services
        self._threads = threads
        self._hooks = hooks
        self._limit = limit  # interrupts the threads of plain functions

    def runner(self, declared: TaskType) -> Callable[[Delivery], Awaitable[None]]:
        """Return the coroutine function that runs one delivery of a type."""
        call = self._await if declared.is_async else self._on_a_thread

        async def run(delivery: Delivery) -> None:
            await call(declared, delivery)

        return run

    async def _await(self, declared: TaskType, delivery: Delivery) -> None:
        with self._hooks.around(delivery):
            payload = declared.parse(delivery.payload, delivery.version)
            try:
                async with asyncio.timeout(declared.timeout) as deadline, contextlib.AsyncExitStack() as around:
                    context = AsyncContext(self._services, declared, delivery, deadline)
                    for middleware in declared.middleware:
                        await around.enter_async_context(middleware(context, payload))
                    delivery.result = await declared.function(context, payload)
            except TimeoutError:
                if deadline.expired():
                    raise TimedOut(f"timed out after {declared.timeout:g} s") from None
                raise

    async def _on_a_thread(self, declared: TaskType, delivery: Delivery) -> None:
        def call() -> None:
            with self._hooks.around(delivery), self._limited(declared.timeout):
                context = Context(self._services, declared, delivery, self._limit)
                try:
                    payload = declared.parse(delivery.payload, delivery.version)
                    with contextlib.ExitStack() as around:
                        for middleware in declared.middleware:
                            around.enter_context(middleware(context, payload))
                        delivery.result = declared.function(context, payload)
                except (TimeLimitExceeded, TimeoutError) as error:
                    if isinstance(error, TimeLimitExceeded) or context.remaining() <= 0:
                        raise TimedOut(f"timed out after {declared.timeout:g} s") from error
                    raise

        await self._threads.run(delivery, call)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        if self._limit is None:
            yield
            return
        self._limit.manager.add_timeout(threading.get_ident(), seconds * 1000)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            self._limit.manager.remove_timeout(threading.get_ident())  # type: ignore[no-untyped-call]
