"""The life of a worker process: the order of start and stop, within the shutdown timeout."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

import structlog
from dramatiq import Broker, Worker
from dramatiq.middleware import Middleware

from sytq.config.sections import Worker as WorkerSettings
from sytq.errors import RedisUnavailable
from sytq.executor.executor import Executor
from sytq.observability import logs, process_group
from sytq.service.cards import CardMaker
from sytq.worker.liveness import LivenessFile
from sytq.worker.loops.loop import Loop

log = structlog.get_logger(__name__)


class Lifecycle(Middleware):
    """Starts the executor and the loops with Dramatiq's worker, and ends them after the worker.

    `withdraw` ends the pauses for what this worker's calls are made with: whoever reloads it wants that tried again.
    """

    def __init__(
        self,
        executor: Executor,
        settings: WorkerSettings,
        loops: Sequence[Loop],
        withdraw: Callable[[], int],
        card: CardMaker,
    ) -> None:
        self._executor = executor
        self._settings = settings
        self._loops = loops
        self._withdraw = withdraw
        self._card = card
        self._reloads = False
        self._deadline = 0.0
        self._liveness_file: LivenessFile | None = None
        self._parent = multiprocessing.parent_process()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        # Dramatiq's handler kills the running tasks at the second SIGTERM; a service manager that signals the whole
        # group sends two, as the master passes its own on.
        _before_handler(signal.SIGTERM, lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        _before_handler(signal.SIGHUP, self._note_reload)
        self._card.queues = lambda: list(worker.consumers)
        self._executor.start(threads=worker.worker_threads, loop_slots=self._settings.async_concurrency)
        worker.worker_threads = 0  # Dramatiq's own would wait for messages that the executor takes
        logs.identify(worker_id=self._executor.name)
        # Loaded modules stay: the garbage collector need not visit them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 10, 10)  # the default has it visit a few hundred running tasks again and again
        log.info("worker started", queues=sorted(broker.queues))

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        for loop in self._loops:
            loop.start()
        try:
            self._liveness_file = LivenessFile(process_group.create(os.getppid()))
        except OSError as error:
            log.warning("liveness file not created: probes will find no worker here", error=str(error))
        self._watchdog = self._executor.watch(
            lambda: [*worker.consumers.values(), *self._loops], self._healthy, self._settings.shutdown_timeout
        )

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._watchdog.stop()
        if self._watchdog.terminated and self._liveness_file is not None:
            self._liveness_file.remove()  # it counts as dead: a restart of the group would end its siblings, too
        self._deadline = time.monotonic() + self._settings.shutdown_timeout
        self._executor.stopping.set()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._executor.stop(max(0.0, self._deadline - time.monotonic()))
        # After the last task, so that its history is written too.
        for loop in self._loops:
            loop.end()
        for loop in self._loops:
            loop.join(max(0.0, self._deadline - time.monotonic()) + 5.0)
        if self._reloads:
            with contextlib.suppress(RedisUnavailable):  # then the pauses end at their time
                self._withdraw()
        if self._liveness_file is not None:
            self._liveness_file.remove()
        log.info("worker stopped")
        self._watchdog.exit()

    def _note_reload(self) -> None:
        self._reloads = True

    def _healthy(self) -> None:
        if self._parent is not None and os.getppid() != self._parent.pid:
            self._parent = None
            log.critical("the first process of the group died: this one stops, as nobody else would stop it")
            os.kill(os.getpid(), signal.SIGTERM)
        if self._liveness_file is not None:
            with contextlib.suppress(OSError):  # a full disk ends no worker, but its file ages
                self._liveness_file.touch(ready=self._executor.ready)


def _before_handler(number: int, call: Callable[[], object]) -> None:
    """Have `call` called before the present handler of a signal."""
    first = signal.getsignal(number)

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        if callable(first):
            first(number, frame)

    signal.signal(number, handle)
