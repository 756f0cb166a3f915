"""The watchdog ends a worker process with a dead or stalled thread, so that a whole process replaces it.

It also names the task that blocks the event loop. It repairs nothing: other workers reclaim the tasks.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from sytq.exit_status import WATCHDOG
from sytq.observability.metrics import Counter

if TYPE_CHECKING:
    from sytq.executor.executor import Executor

log = structlog.get_logger(__name__)

_BLOCKS = Counter("sytq_event_loop_blocked_total", "Times a task held the event loop for more than 1 s.", ("type",))
_TICK = 0.5
#: Seconds after which a task that blocks the event loop is named in the log.
_BLOCKED = 1.0

_turns: weakref.WeakKeyDictionary[threading.Thread, int] = weakref.WeakKeyDictionary()


def turn() -> None:
    """Note that the calling thread makes progress. After its first call a thread must keep calling."""
    thread = threading.current_thread()
    _turns[thread] = _turns.get(thread, 0) + 1


class Watchdog(threading.Thread):
    """Watches an executor and `others()`: every thread is alive, and a thread that has called `turn` keeps calling it.

    `healthy` is called after each look without a finding, and during an orderly end. Without its heartbeat or event
    loop no task here can finish, and the process ends at once; without another thread it ends in an orderly way, within
    `shutdown_timeout` seconds. `stalled` is the longest time without a turn (seconds); time in which the whole process
    was stopped (SIGSTOP, a suspended machine) does not count.
    """

    def __init__(
        self,
        executor: Executor,
        others: Callable[[], Iterable[threading.Thread]],
        healthy: Callable[[], None],
        *,
        shutdown_timeout: float,
        stalled: float,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._event_loop, self._find = executor.event_loop, executor.find
        self._vital = (executor.heartbeat, executor.event_loop)
        self._others = others
        self._healthy = healthy
        self._shutdown_timeout = shutdown_timeout
        self._stalled = stalled
        self._quiet: dict[threading.Thread, tuple[int, float]] = {}  # its turns, and the seconds since the last
        self._probed = 0.0  # when the event loop was probed; 0.0 once it has answered
        self._reported = False  # that the event loop has not answered
        #: Whether the watchdog has begun the end of the process.
        self.terminated = False
        self._ended = threading.Event()

    def stop(self) -> None:
        """Let threads end from now on: the process ends in an orderly way."""
        self._ended.set()

    def exit(self) -> None:
        """Call it last in an orderly end: raises SystemExit if the watchdog began the end."""
        if self.terminated:
            raise SystemExit(WATCHDOG)

    def run(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(_TICK):
            now = time.monotonic()
            self._look(min(now - before, 2 * _TICK))
            self._probe(now)
            before = now
            self._healthy()
        while True:  # running tasks finish
            self._healthy()
            time.sleep(_TICK)

    def _look(self, elapsed: float) -> None:
        for thread in (*self._vital, *self._event_loop.threads.threads, *self._others()):
            turns = _turns.get(thread, 0)
            known, quiet = self._quiet.get(thread, (turns, 0.0))
            quiet = quiet + elapsed if turns and turns == known else 0.0
            self._quiet[thread] = (turns, quiet)
            if self._ended.is_set():
                return
            if not thread.is_alive():
                self._terminate(thread, "a thread died")
            if quiet > self._stalled:
                self._terminate(thread, "a thread made no progress")

    def _terminate(self, thread: threading.Thread, what: str) -> None:
        self.terminated = True
        name = getattr(thread, "queue_name", thread.name)
        log.critical(f"{what}: terminating the process", thread=name, kind=type(thread).__name__)
        if thread not in self._vital:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(self._shutdown_timeout)
            log.critical("orderly shutdown timed out")
        os._exit(WATCHDOG)

    def _probe(self, now: float) -> None:
        """Probe the event loop, and name the task that blocks it."""
        if not self._probed:
            self._probed, self._reported = now, False
            self._event_loop.loop.call_soon_threadsafe(self._answer)
        elif now - self._probed > _BLOCKED and not self._reported:
            self._reported = True
            task = asyncio.current_task(self._event_loop.loop)
            running = self._find(task.get_name()) if task else None
            frame = sys._current_frames().get(self._event_loop.ident or 0)
            _BLOCKS.add(1, running.type if running else "")
            log.warning(
                "event loop blocked",
                type=running.type if running else None,
                task_id=running.id if running else None,
                at=f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else None,
            )

    def _answer(self) -> None:
        turn()
        self._probed = 0.0
