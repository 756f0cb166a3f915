"""Calls a type's function for a delivery, with its context, its deadline and the type's own middleware."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from pydantic import BaseModel

from sytq.broker.delivery import Delivery
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Services
from sytq.executor.context import Context
from sytq.executor.deadline import Deadline
from sytq.executor.hooks import Hooks
from sytq.executor.portal import Portal
from sytq.executor.threads import Call, Threads
from sytq.tasktypes.tasktype import TaskType


class Runner:
    """`hooks` are those of middleware that may need the thread of the function, as any may that a plugin brings."""

    def __init__(self, services: Services, threads: Threads, hooks: Hooks) -> None:
        self._services = services
        self._threads = threads
        self._hooks = hooks

    def runner(self, declared: TaskType) -> Callable[[Delivery], Coroutine[Any, Any, None]]:
        """Return the coroutine function that runs one delivery of a type."""
        return partial(self._await if declared.is_async else self._call_on_a_thread, declared)

    async def _await(self, declared: TaskType, delivery: Delivery) -> None:
        with Deadline(declared.timeout) as deadline:
            deadline.begin()
            deadline.arm()
            with self._hooks.around(delivery):
                context = AsyncContext(self._services, declared, delivery, deadline)
                payload = declared.parse(delivery.payload, delivery.version)
                call = partial(_within_its_middleware, declared) if declared.middleware else declared.function
                delivery.result = await call(context, payload)

    async def _call_on_a_thread(self, declared: TaskType, delivery: Delivery) -> None:
        portal, deadline = Portal(asyncio.get_running_loop()), Deadline(declared.timeout)
        awaited = AsyncContext(self._services, declared, delivery, deadline, portal)

        def call() -> None:
            deadline.begin()
            with self._hooks.around(delivery), contextlib.ExitStack() as around:
                context = Context(awaited, portal)
                payload = declared.parse(delivery.payload, delivery.version)
                for middleware in declared.middleware:
                    if inspect.isasyncgenfunction(inspect.unwrap(middleware)):
                        around.enter_context(portal.entered(middleware(awaited, payload)))
                    else:
                        around.enter_context(middleware(context, payload))
                delivery.result = declared.function(context, payload)

        with deadline:
            await self._threads.run(Call(delivery, deadline, portal, call))


async def _within_its_middleware(declared: TaskType, context: AsyncContext, payload: BaseModel) -> Any:
    async with contextlib.AsyncExitStack() as around:
        for middleware in declared.middleware:
            entered = middleware(context, payload)
            if isinstance(entered, contextlib.AbstractAsyncContextManager):
                await around.enter_async_context(entered)
            else:
                around.enter_context(entered)
        return await declared.function(context, payload)
