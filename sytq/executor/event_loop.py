"""The event loop of a worker process, on which `async def` tasks run without holding a thread.

Calls the same middleware hooks as Dramatiq's worker threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable

import structlog
from dramatiq import Broker
from dramatiq.middleware import SkipMessage, TimeLimit

from sytq.broker.delivery import Delivery

log = structlog.get_logger(__name__)

#: An async actor's option: the coroutine function that runs one delivery.
RunDelivery = Callable[[Delivery], Awaitable[None]]


class EventLoop(threading.Thread):
    """Runs deliveries and calls `finished` after each."""

    def __init__(self, broker: Broker, finished: Callable[[Delivery], None]) -> None:
        super().__init__(name="event-loop", daemon=True)
        self.loop = asyncio.new_event_loop()
        self._broker = broker
        self._finished = finished
        self._running: dict[asyncio.Task[None], Delivery] = {}

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, delivery: Delivery, runner: RunDelivery) -> None:
        """Start a delivery. Callable from any thread."""
        self.loop.call_soon_threadsafe(self._start, delivery, runner)

    def cancel(self, delivery: Delivery) -> None:
        """Cancel a running delivery. Callable from any thread; harmless when it has ended."""
        self.loop.call_soon_threadsafe(self._cancel, delivery.id)

    def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the running tasks, then cancel the rest, which return to their queues."""
        waiting = asyncio.run_coroutine_threadsafe(self._drain(timeout), self.loop)
        try:
            waiting.result(timeout + 10)
        except concurrent.futures.TimeoutError:
            log.error("async tasks ignored their cancellation", running=len(self._running))

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(5)

    def _start(self, delivery: Delivery, runner: RunDelivery) -> None:
        task = self.loop.create_task(self._run(delivery, runner), name=delivery.id)
        self._running[task] = delivery
        task.add_done_callback(lambda done: self._running.pop(done, None))

    def _cancel(self, task_id: str) -> None:
        for task, delivery in self._running.items():
            if delivery.id == task_id:
                task.cancel()

    async def _run(self, delivery: Delivery, runner: RunDelivery) -> None:
        try:
            self._before(delivery)
            await runner(delivery)
            self._broker.emit_after("process_message", delivery, result=None)
        except SkipMessage:
            self._broker.emit_after("skip_message", delivery)
        except BaseException as error:
            delivery.stuff_exception(error)
            self._broker.emit_after("process_message", delivery, exception=error)
        finally:
            self._finished(delivery)
            delivery.clear_exception()

    def _before(self, delivery: Delivery) -> None:
        for middleware in self._broker.middleware:
            # TimeLimit interrupts threads; on the loop the runner's own deadline ends the task.
            if not isinstance(middleware, TimeLimit):
                middleware.before_process_message(self._broker, delivery)

    async def _drain(self, timeout: float) -> None:
        if self._running:
            await asyncio.wait(set(self._running), timeout=max(timeout, 0.01))
        for task, delivery in list(self._running.items()):
            delivery.returned = True
            task.cancel()
        if self._running:
            await asyncio.wait(set(self._running), timeout=5)
