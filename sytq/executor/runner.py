"""Calls a type's function for a delivery, with its context and the type's own middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from dramatiq.middleware import TimeLimit, TimeLimitExceeded

from sytq.broker.delivery import Delivery
from sytq.errors import TimedOut
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Services
from sytq.executor.context import Context
from sytq.tasktypes.tasktype import TaskType


class Runner:
    def __init__(self, services: Services, limit: TimeLimit | None = None) -> None:
        self._services = services
        self._limit = limit  # interrupts the threads of plain functions

    def runner(self, declared: TaskType) -> Callable[[Delivery], None]:
        """Return the function of a plain type's actor."""

        def run(delivery: Delivery) -> None:
            context = Context(self._services, declared, delivery, self._limit)
            try:
                payload = declared.parse(delivery.payload, delivery.version)
                with contextlib.ExitStack() as around:
                    for middleware in declared.middleware:
                        around.enter_context(middleware(context, payload))
                    delivery.result = declared.function(context, payload)
            except (TimeLimitExceeded, Exception) as error:
                late = isinstance(error, TimeLimitExceeded)
                late = late or (isinstance(error, TimeoutError) and context.remaining() <= 0)
                # Not raised: Dramatiq would log a traceback at every attempt. RetryPolicy reads it.
                delivery.stuff_exception(TimedOut(f"timed out after {declared.timeout:g} s") if late else error)

        return run

    def async_runner(self, declared: TaskType) -> Callable[[Delivery], Awaitable[None]]:
        """Return the coroutine function of an async type's actor."""

        async def run(delivery: Delivery) -> None:
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

        return run
