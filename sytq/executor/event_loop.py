"""The event loop of a worker process: every attempt is a coroutine on it, from its fetch to its acknowledgement.

Plain functions alone run elsewhere, on the threads behind it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence

import structlog
from dramatiq import Broker
from dramatiq.middleware import SkipMessage

from sytq.broker.delivery import Delivery
from sytq.executor.hooks import Hooks
from sytq.executor.threads import Threads

log = structlog.get_logger(__name__)

#: Seconds between two looks at what waits for a thread.
_TICK = 0.1


class EventLoop(threading.Thread):
    """Runs deliveries and calls `finished` after each."""

    def __init__(
        self, broker: Broker, hooks: Hooks, stopping: threading.Event, finished: Callable[[Delivery], None]
    ) -> None:
        super().__init__(name="event-loop", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.threads = Threads(self.loop)
        self._broker = broker
        self._hooks = hooks
        self._stopping = stopping
        self._finished = finished
        self._running: dict[Delivery, asyncio.Task[None]] = {}

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._tick()
        self.loop.run_forever()

    def submit(self, deliveries: Sequence[Delivery], begun: Callable[[], None] | None = None) -> None:
        """Start deliveries, and call `begun` once each has begun. Callable from any thread."""
        self.loop.call_soon_threadsafe(self._start, deliveries, begun)

    def cancel(self, delivery: Delivery) -> None:
        """Cancel a running delivery. Callable from any thread; harmless when it has ended."""
        self.loop.call_soon_threadsafe(self._cancel, delivery.id)

    def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the running tasks, then cancel the rest, which return to their queues."""
        waiting = asyncio.run_coroutine_threadsafe(self._drain(timeout), self.loop)
        try:
            waiting.result(timeout + 10)
        except concurrent.futures.TimeoutError:
            log.error("tasks ignored their cancellation", running=len(self._running))

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(5)

    def _start(self, deliveries: Sequence[Delivery], begun: Callable[[], None] | None) -> None:
        for delivery in deliveries:
            self._running[delivery] = self.loop.create_task(self._run(delivery), name=delivery.id)
            if delivery.lost or delivery.cancelled_by is not None:  # the heartbeat came between its fetch and this
                self._cancel(delivery.id)
        if begun is not None:
            self.loop.call_soon(begun)  # behind the first step of each

    def _cancel(self, task_id: str) -> None:
        for delivery, task in self._running.items():
            if delivery.id == task_id:
                self.loop.call_soon(task.cancel)  # behind its first step: before it, it would end without an outcome

    async def _run(self, delivery: Delivery) -> None:
        try:
            with self._hooks.around(delivery):
                await self._broker.actors[delivery.type].options["runner"](delivery)
        except BaseException as error:
            if isinstance(error, SkipMessage):
                log.warning("task skipped by middleware", task_id=delivery.id)
            _let_go(error)
        finally:
            self._finished(delivery)
            delivery.clear_exception()
            del self._running[delivery]

    def _tick(self) -> None:
        self.threads.look()
        if self._stopping.is_set():
            self.threads.return_waiting("the worker is stopping")
        self.loop.call_later(_TICK, self._tick)

    async def _drain(self, timeout: float) -> None:
        await self._wait(max(timeout, 0.01))
        for delivery, task in self._running.items():
            delivery.returned = "the worker is stopping"
            self.loop.call_soon(task.cancel)  # as in `_cancel`
        await self._wait(5)
        for task in self._running.values():
            task.cancel()  # its thread does not take an interruption
        await self._wait(1)

    async def _wait(self, timeout: float) -> None:
        if self._running:
            await asyncio.wait(self._running.values(), timeout=timeout)


def _let_go(error: BaseException) -> None:
    """Free what an attempt's error refers to. A library that keeps an error in a local variable, as aiohttp does, has
    it refer to itself, and to all of the attempt, which the garbage collector alone would find."""
    at: BaseException | None = error
    while at is not None and at.__traceback__ is not None:
        at.__traceback__ = None
        at = at.__cause__ or at.__context__
