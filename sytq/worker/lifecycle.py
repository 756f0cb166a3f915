"""The life of a worker process: what starts before it consumes and ends after its last task.

Owns the order of start and stop, and the stop budget.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

import structlog
from dramatiq import Broker, Worker
from dramatiq.middleware import Middleware

from sytq.broker.broker import StreamsBroker
from sytq.config import Settings
from sytq.observability import logs
from sytq.worker.liveness import LivenessFile, folder
from sytq.worker.loops.loop import Loop

log = structlog.get_logger(__name__)


class Lifecycle(Middleware):
    """Starts the broker's worker side and the housekeeping loops with Dramatiq's worker, and ends them after it."""

    def __init__(self, settings: Settings, started: Callable[[], None], loops: Sequence[Callable[[], Loop]]) -> None:
        self._settings = settings.worker
        self._started = started
        self._factories = loops
        self._loops: list[Loop] = []
        self._deadline = 0.0
        self._vitals: LivenessFile | None = None

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        assert isinstance(broker, StreamsBroker)
        _stop_once()
        broker.start_worker(threads=worker.worker_threads, loop_places=self._settings.async_concurrency)
        logs.identify(worker_id=broker.worker.name)
        self._started()
        # What was loaded stays: the collector need not go through it again and again.
        gc.collect()
        gc.freeze()
        log.info("worker started", queues=sorted(broker.queues))

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        assert isinstance(broker, StreamsBroker)
        self._loops = [make() for make in self._factories]
        for loop in self._loops:
            loop.start()
        self._watchdog = broker.worker.watch(
            lambda: [*worker.consumers.values(), *worker.workers, *self._loops],
            self._well(broker),
            self._settings.shutdown_timeout,
        )

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        assert isinstance(broker, StreamsBroker)
        self._watchdog.stop()
        self._deadline = time.monotonic() + self._settings.shutdown_timeout
        broker.worker.stopping.set()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        assert isinstance(broker, StreamsBroker)
        broker.worker.stop(max(0.0, self._deadline - time.monotonic()))
        # Last, so that the history of the last tasks is written too.
        for loop in self._loops:
            loop.end()
        for loop in self._loops:
            loop.join(5.0)
        if self._vitals is not None:
            self._vitals.remove()
        log.info("worker stopped")
        self._watchdog.exit()

    def _well(self, broker: StreamsBroker) -> Callable[[], None]:
        """What the watchdog calls while all goes round: this process's vital sign."""
        try:
            self._vitals = vitals = LivenessFile(folder(os.getppid()))
        except OSError as error:
            log.warning("no vital signs: probes will find no worker here", error=str(error))
            return lambda: None

        def well() -> None:
            with contextlib.suppress(OSError):  # a full disk ends no worker, but its file grows old
                vitals.give(ready=broker.worker.heartbeat.fresh)

        return well


def _stop_once() -> None:
    """Make a second SIGTERM harmless: at that Dramatiq's handler kills the running tasks.

    A service manager that signals the whole group sends two without meaning to, as the master passes its own on.
    """
    first = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if callable(first):
            first(number, frame)

    signal.signal(signal.SIGTERM, stop)
