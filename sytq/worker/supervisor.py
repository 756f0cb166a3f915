"""The supervisor of a worker group: forks its processes and replaces each that dies, alone.

It knows nothing of tasks, and starts no thread, so that it can fork at any time.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog

from sytq.exit_status import describe, oom_kills
from sytq.worker.liveness import can_be_written, read_liveness, remove
from sytq.worker.member import SIGNALS, Member

log = structlog.get_logger(__name__)

#: Starts of a process in a row that fail before the group ends, unless another process of it works.
_MAX_FAILED_STARTS = 5
#: Seconds that a process may take until it works, as the unit of systemd says.
_START_TIMEOUT = 300.0
#: Seconds between two looks at the liveness files, and at how many processes were killed for lack of memory.
_TICK = 5.0


class Supervisor:
    """Keeps `workers` running, and the health server if any; `folder` has the liveness files."""

    def __init__(self, workers: Sequence[Member], health: Member | None, folder: Path) -> None:
        self._workers = workers
        self._health = health
        self._members = [*workers, *([health] if health else [])]
        self._folder = folder
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._stopping = False
        self._status = 0
        self._looked = 0.0
        self._hanging: set[int] = set()  # process ids, at the last look
        self._oom_kills = oom_kills() or 0  # also of a group before this one
        #: Whether the group has ended to start again with the present configuration.
        self.reload = False

    def run(self) -> int:
        """Run until a signal, or until no worker process comes up; return the exit status."""
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: self._signals.put(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked by the process that this one replaces
        gc.collect()
        gc.freeze()  # collecting the objects that all processes share would copy them into each
        try:
            while not (self._stopping and not any(worker.running for worker in self._workers)):
                self._turn()
        except BaseException:
            self._stop()
            raise
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # from now on they are for the process that replaces this one
        while not self._signals.empty():
            self._obey(self._signals.get())
        if self._health is not None:
            self._health.end()
        return self._status

    def _turn(self) -> None:
        for member in self._members:
            if not self._stopping and member.due <= time.monotonic():  # a start that fails may end the group
                self._start(member)
        with contextlib.suppress(Empty):
            self._obey(self._signals.get(timeout=self._timeout()))
        for member in self._members:
            if (status := member.exit_status()) is not None:
                self._ended(member, status)
        if time.monotonic() - self._looked >= _TICK and not self._stopping:
            self._look()

    def _timeout(self) -> float:
        """Seconds until the next start."""
        if self._stopping:
            return _TICK
        due = min(member.due for member in self._members)
        return max(0.0, min(due - time.monotonic(), _TICK))

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD or (number == signal.SIGHUP and self._stopping):
            return
        self.reload = number == signal.SIGHUP
        if not self._stopping:
            log.info("group stopping", reason=signal.Signals(number).name)
            self._stop(signal.SIGHUP if self.reload else signal.SIGTERM)

    def _stop(self, number: int = signal.SIGTERM) -> None:
        self._stopping = True
        for member in self._members:
            member.signal(number)

    def _start(self, member: Member) -> None:
        try:
            member.start()
        except OSError as error:  # too many processes, or too little memory
            log.error(f"{member.name} not started", error=str(error), retry_in=member.plan())
            self._give_up_if_hopeless(member, 1)

    def _ended(self, member: Member, status: int) -> None:
        remove(self._folder, member.pid)
        out_of_memory = (oom_kills() or 0) > self._oom_kills
        said = {"pid": member.pid, "error": describe(status, out_of_memory=out_of_memory)}
        if not self._stopping:
            log.error(f"{member.name} exited unexpectedly: a new one starts", retry_in=member.plan(), **said)
            self._give_up_if_hopeless(member, status)
        elif status != 0:
            log.error(f"{member.name} failed during its stop", **said)
            self._status = self._status or max(status, 1)

    def _look(self) -> None:
        self._looked = time.monotonic()
        # Not at every turn: the kernel counts a process some time before it has ended.
        self._oom_kills = oom_kills() or 0
        hanging = {process.pid for process in read_liveness(self._folder) if not process.alive}
        # Twice, as the machine may have stood still.
        if hanging & self._hanging and can_be_written(self._folder):
            for worker in self._workers:
                if worker.running and worker.pid in hanging & self._hanging:
                    log.error("worker process hangs: it is killed, and its tasks run elsewhere", pid=worker.pid)
                    worker.signal(signal.SIGKILL)
        self._hanging = hanging
        for worker in self._workers:
            if worker.running and not worker.works and self._looked - worker.since > _START_TIMEOUT:
                log.error("worker process does not come up: it is killed", pid=worker.pid)
                worker.signal(signal.SIGKILL)

    def _give_up_if_hopeless(self, member: Member, status: int) -> None:
        hopeless = member.failed_starts >= _MAX_FAILED_STARTS and not any(worker.works for worker in self._workers)
        if hopeless and member is not self._health:
            log.critical(
                "no worker process comes up: the group ends; correct what the lines above say, then start it again",
                error=describe(status),
            )
            self._status = max(status, 1)
            self._stop()
