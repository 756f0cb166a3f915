"""A process of a worker group, and those that replace it one after the other."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from queue import SimpleQueue
from typing import NoReturn

import structlog

from sytq.observability.log_stream import LogStream
from sytq.worker.restarts import Restarts

log = structlog.get_logger(__name__)

#: What the supervisor of the group waits for.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
#: Seconds that a process without tasks may take to end.
_END_TIMEOUT = 5.0

#: What a process does: it calls the first argument once it works, ends when the second, a queue, has something, and
#: returns its exit status.
Work = Callable[[Callable[[], None], "SimpleQueue[int]"], int]


class Member:
    """One process of the group at a time; its first start is due at once."""

    def __init__(self, name: str, work: Work) -> None:
        self.name = name
        self.pid = 0  # of the latest process
        #: When the next start is due (time.monotonic()); infinite while a process runs.
        self.due = 0.0
        #: How many starts in a row ended before the process worked.
        self.failed_starts = 0
        self._work = work
        self._restarts = Restarts()
        self._working = mmap.mmap(-1, 1)  # shared with the process, which sets it to 1
        self._process: ForkProcess | None = None
        #: When the latest process was started (time.monotonic()).
        self.since = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def works(self) -> bool:
        """Whether a process runs, and its start succeeded."""
        return self.running and self._working[0] == 1

    def start(self) -> None:
        """Fork a process. Raises OSError."""
        self._working[0] = 0
        self.since = time.monotonic()
        process = multiprocessing.get_context("fork").Process(target=self._run)
        # A signal that comes before the new process has its own handlers is kept for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        assert process.pid is not None
        self._process, self.pid, self.due = process, process.pid, math.inf

    def exit_status(self) -> int | None:
        """Return the exit status once the process has ended, negative for a signal. The next call returns None."""
        if self._process is None or (status := self._process.exitcode) is None:
            return None
        self._process.close()
        self._process = None
        return status

    def plan(self) -> float:
        """Plan the next start after an end or a failed start; return the seconds until then."""
        now = time.monotonic()
        self.failed_starts = 0 if self._working[0] else self.failed_starts + 1
        pause = self._restarts.pause(now - self.since)
        self.due = now + pause
        return pause

    def signal(self, number: int) -> None:
        """Send a signal to the process, if one runs."""
        if self._process is not None and self._process.is_alive():
            os.kill(self.pid, number)

    def end(self) -> None:
        """End a process that has nothing to finish."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(_END_TIMEOUT)
            self._process.kill()
            self._process.join()

    def _run(self) -> NoReturn:
        """What the new process does."""
        stop: SimpleQueue[int] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: stop.put(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # Neither may wait for a reader; what the supervisor's stream has kept is the supervisor's to write.
        sys.stdout = sys.stderr = LogStream(sys.__stderr__)
        try:
            status = self._work(self._works, stop)
        except Exception:
            log.exception(f"{self.name} failed")
            status = 1
        sys.exit(status)

    def _works(self) -> None:
        self._working[0] = 1
