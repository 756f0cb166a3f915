"""The threads of an executor, which run the functions of plain types and nothing else of an attempt."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable

from dramatiq import Broker
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.threading import Interrupt

from sytq import clock
from sytq.broker.delivery import Delivery
from sytq.executor.deadline import Deadline
from sytq.executor.portal import Portal

#: Seconds within which a function that waits for a thread is expected to begin.
_AHEAD = 0.05
#: Most functions that wait for a thread.
_MAX_AHEAD = 50
#: Seconds after which a function that still waits for a thread goes back to its queue, as another worker may be free.
_STALE = 0.5
#: Seconds after which an idle thread looks around.
_TURN = 1.0
#: Seconds that a function which polls `ctx.cancelled()` has to end by itself.
_GRACE = 10.0
#: The weight of the latest call in how long a type takes.
_LATEST = 0.2


class Call:
    """One function on its way through a thread."""

    def __init__(self, delivery: Delivery, deadline: Deadline, portal: Portal, function: Callable[[], None]) -> None:
        self.delivery = delivery
        self.deadline = deadline
        self.portal = portal
        self.function = function
        self.context = contextvars.copy_context()
        self.put = time.monotonic()
        self.begun = 0.0
        self.dropped = False  # not to be begun
        self.error: BaseException | None = None
        self.wake: asyncio.Future[None] | None = None  # what its coroutine waits for
        self.collected = False  # the event loop knows that it has ended


class Threads:
    """A pool behind one event loop; no thread runs before `start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.threads: list[TaskThread] = []
        self._loop = loop
        self._waiting: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._ended: collections.deque[Call] = collections.deque()
        self._woken = False  # the loop is to collect what has ended
        self._lock = threading.Lock()  # of the beginning of a call
        self._seconds: dict[str, float] = {}  # by type, how long its calls took lately

    def start(self, size: int, broker: Broker | None = None) -> None:
        """Start the threads; those of a worker tell the broker's middleware."""
        self.threads = [TaskThread(self, broker) for _ in range(size)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Let every thread end when its function has."""
        for _ in self.threads:
            self._waiting.put(None)

    # -- on the event loop

    async def run(self, call: Call) -> None:
        """Run a function on a thread. A cancellation drops or interrupts it; then its end is waited for.

        A second cancellation of what goes back to its queue waits no longer: such threads end with the process.
        """
        self._waiting.put(call)
        while not call.collected:
            call.wake = self._loop.create_future()
            try:
                await call.wake
            except asyncio.CancelledError:
                with self._lock:
                    call.dropped = not call.begun
                if call.dropped or (call.portal.interrupted and call.delivery.returned):
                    raise
                self._interrupt(call)
        await call.portal.close()
        error, call.error = call.error, None
        if isinstance(error, Interrupt) and call.portal.interrupted:
            raise asyncio.CancelledError
        if error is not None:
            raise error

    def _interrupt(self, call: Call) -> None:
        delivery, interrupt = call.delivery, call.portal.interrupt
        if call.deadline.expired:
            interrupt(TimeLimitExceeded)
        elif delivery.polls and not delivery.lost and not delivery.returned:  # it learns that a person cancelled it
            self._loop.call_later(_GRACE, interrupt, Interrupt)
        else:
            interrupt(Interrupt)

    def return_waiting(self, reason: str, put_before: float = math.inf) -> None:
        """Return the deliveries whose functions wait for a thread, since before then, to their queues."""
        waiting = []
        with self._lock:
            while not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
        for call in waiting:
            if call is None or call.put >= put_before:
                self._waiting.put(call)
            elif not call.dropped:
                call.delivery.returned = reason
                call.dropped = True
                if call.wake is not None:
                    call.wake.cancel()

    def look(self) -> None:
        """Arm the deadlines of what runs; return what waits for a thread for longer than was expected."""
        for thread in self.threads:
            if (call := thread.call) is not None and not call.collected:
                call.deadline.arm()
        self.return_waiting("its worker is busy", time.monotonic() - _STALE)

    def _collect(self) -> None:
        self._woken = False
        while self._ended:
            call = self._ended.popleft()
            call.collected = True
            if call.wake is not None and not call.wake.done():
                call.wake.set_result(None)

    # -- on other threads

    def ahead(self, types: Iterable[str]) -> int:
        """How many functions of these types may wait for a thread, as they will have one within moments."""
        seconds = max((self._seconds[name] for name in types if name in self._seconds), default=_AHEAD)
        now = time.monotonic()
        calls = [thread.call for thread in self.threads]
        quick = sum(1 for call in calls if call is None or now - call.begun < _AHEAD)
        return min(_MAX_AHEAD, int(quick * _AHEAD / max(seconds, 1e-6))) if seconds < _AHEAD else 0

    def next(self) -> Call | None:
        """Wait for a function and begin it. None at the end. Raises queue.Empty."""
        while True:
            call = self._waiting.get(timeout=_TURN)
            if call is None:
                return None
            with self._lock:
                if not call.dropped:
                    call.begun = time.monotonic()
                    return call

    def end(self, call: Call) -> None:
        """Tell the event loop that a call has ended."""
        took, name = time.monotonic() - call.begun, call.delivery.type
        self._seconds[name] = took + (1 - _LATEST) * (self._seconds.get(name, took) - took)
        self._ended.append(call)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._collect)


class TaskThread(threading.Thread):
    """A thread of the pool."""

    def __init__(self, pool: Threads, broker: Broker | None) -> None:
        super().__init__(name="task", daemon=True)
        self.call: Call | None = None  # that it runs
        self._pool = pool
        self._broker = broker

    def run(self) -> None:
        self._emit("emit_after", "worker_thread_boot")
        while True:
            try:
                call = self._pool.next()
            except queue.Empty:
                continue
            if call is None:
                break
            self.call = call
            call.delivery.started = clock.now()
            try:
                call.context.run(call.portal.run, call.function)
            except BaseException as error:
                call.error = error
            self.call = None
            self._pool.end(call)
            del call
        self._emit("emit_before", "worker_thread_shutdown")

    def _emit(self, how: str, signal: str) -> None:
        if self._broker is not None:
            getattr(self._broker, how)(signal, self)
