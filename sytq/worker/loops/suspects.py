"""The suspects' loop: starts an isolated process (sytq.isolated) while suspects wait, and tells what it died of.

One worker at a time runs it for its queues. The process is a program of its own, never a fork: this one has threads.
"""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.errors import RedisUnavailable
from sytq.executor.executor import Executor
from sytq.exit_status import NONE_FOUND, describe, oom_kills
from sytq.observability.log_stream import LogStream
from sytq.worker.loops.loop import LeasedLoop

log = structlog.get_logger(__name__)

_INTERVAL = 0.5
#: Suspects that one process takes at once; where the installation's running tasks have a bound, one.
_MAX_TASKS = 100
#: Seconds until the next start after a process that did nothing: no suspect may run now, or it is broken.
_PAUSE = 10.0
#: Seconds that a process has, after those that its tasks have to end, to return the rest and leave.
_LAST_WRITES = 4.0
#: Milliseconds for which it is known what processes died of.
_DEPARTED_MS = 3_600_000
_LAST_LINES, _LINE, _TEXT = 20, 8192, 4000


class SuspectLoop(LeasedLoop):
    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        executor: Executor,
        queues: Callable[[], Sequence[str]],
        *,
        group: Sequence[str],
        bounded: bool,
        shutdown_timeout: float,
    ) -> None:
        # Workers of other queues run other tasks, perhaps with another configuration: they have a loop of their own.
        super().__init__(" ".join(("suspects", *sorted(group))), redis, keys, executor.name)
        self._executor = executor
        self._queues = queues
        self._bounded = bounded
        self._shutdown_timeout = shutdown_timeout
        self._process: IsolatedProcess | None = None
        self._processes = 0
        self._not_before = 0.0

    def step(self) -> float:
        process = self._process
        if process is not None:
            if self._executor.stopping.is_set():
                process.stop()
            if process.ended:
                self._give_up_lease(process)
        return super().step()

    def work(self) -> float:
        free = self._process is None and time.monotonic() >= self._not_before
        if free and self._executor.may_start() and not self._executor.stopping.is_set():
            queues = self._queues()
            if queues and self.redis.ask("EXISTS", *map(self.keys.suspects, queues)):
                self._start(queues)
        return _INTERVAL

    def run(self) -> None:
        super().run()
        if self._process is not None:
            self._process.end(self._shutdown_timeout + _LAST_WRITES)
            with contextlib.suppress(RedisUnavailable):  # then its lease expires
                self._give_up_lease(self._process)

    def _start(self, queues: Sequence[str]) -> None:
        if self._bounded and not self._executor.slots.acquire((), 1, timeout=0):
            return
        self._processes += 1
        name = f"{self._executor.name}-alone-{self._processes}"
        max_tasks = 1 if self._bounded else _MAX_TASKS
        try:
            self._process = IsolatedProcess(name, [name, str(max_tasks), *queues])
        except OSError as error:
            log.error("isolated process not started", worker=name, error=str(error))
            self._not_before = time.monotonic() + _PAUSE
            self._release_slot()
            return
        log.warning("isolated process started: the workers of some tasks died twice", worker=name)

    def _give_up_lease(self, process: IsolatedProcess) -> None:
        """Give up the lease of an ended process, so that its tasks need not wait for that, and tell what it died of."""
        departed = self.keys.departed
        # Unless it has left it died: its exit status proves nothing, as a task may call `exit(0)`.
        left = process.stopped or self.redis.ask("HGET", departed, process.name) == b"left"
        said = "left" if left else json.dumps({"how": process.died_of, "log": process.last_lines})
        self.redis.ask("HSET", departed, process.name, said)
        self.redis.ask("PEXPIRE", departed, _DEPARTED_MS)
        held_lease = self.redis.ask("ZREM", self.keys.workers, process.name)
        if process.found_none or not (left or held_lease):
            self._not_before = time.monotonic() + _PAUSE
        if not left:
            log.error("isolated process died", worker=process.name, error=process.died_of)
        self._process = None
        self._release_slot()

    def _release_slot(self) -> None:
        if self._bounded:
            self._executor.slots.release_unused((), 1, {})


class IsolatedProcess:
    """A running isolated process; what it logs goes on to this worker's log."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self._kills = oom_kills()
        self.stopped = False  # it was asked to end
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "sytq.isolated", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=name, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def found_none(self) -> bool:
        """Whether it ended because no suspect may run now."""
        return self._process.returncode == NONE_FOUND

    @property
    def died_of(self) -> str:
        """Its exit status in words."""
        return describe(self._process.returncode, out_of_memory=(oom_kills() or 0) > (self._kills or 0))

    @property
    def last_lines(self) -> str:
        """What it logged last."""
        self._reader.join(1.0)  # another process may have inherited the pipe
        return "".join(self._lines)[-_TEXT:]

    def stop(self) -> None:
        """Ask it to return its tasks and end. Harmless twice."""
        if not self.stopped:
            self.stopped = True
            self._process.terminate()

    def end(self, timeout: float) -> None:
        """Let it end within `timeout` seconds, or kill it."""
        self.stop()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        stream = LogStream(sys.stderr)
        while line := self._process.stderr.readline(_LINE):
            self._lines.append(line)
            stream.write(line)
