"""`sytq worker`: a supervisor and the processes of its group, which run tasks with Dramatiq's `Worker`.

With `dramatiq sytq.actors` Dramatiq's own master starts the processes instead; one that dies ends them all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from dramatiq import Broker, Worker

from sytq.config import Settings
from sytq.observability import process_group
from sytq.observability.log_stream import LogStream
from sytq.worker import health_server
from sytq.worker.member import Member
from sytq.worker.supervisor import Supervisor

#: Seconds between two looks whether a signal has come.
_LOOK = 0.5


def run(settings: Settings, boot: Callable[[], Broker]) -> int:
    """Run a group of workers until it has ended; return its exit status.

    `boot` prepares a new process and returns its broker. All processes have the code and the configuration of this one.
    """
    sys.stderr = LogStream(sys.stderr)
    folder = process_group.folder(os.getpid())
    workers = [Member("worker process", partial(_work, settings, boot)) for _ in range(settings.worker_processes)]
    # Only on request: it costs a process.
    wanted = settings.worker.port is not None or "NOTIFY_SOCKET" in os.environ
    health = Member("health server", partial(_answer_probes, settings)) if wanted else None
    supervisor = Supervisor(workers, health, folder)
    status = supervisor.run()
    shutil.rmtree(folder, ignore_errors=True)
    if supervisor.reload:
        os.execv(sys.executable, [sys.executable, "-m", "sytq.cli", "worker"])  # noqa: S606 (no shell on purpose)
    return status


def _work(settings: Settings, boot: Callable[[], Broker], works: Callable[[], None], stop: SimpleQueue[int]) -> int:
    """Run tasks until the stop, as the processes of Dramatiq's master do."""
    broker = boot()
    broker.emit_after("process_boot")
    worker = Worker(broker, queues=set(settings.worker.queues), worker_threads=settings.worker.threads)
    worker.start()
    works()
    _wait(stop)
    worker.stop(timeout=round(settings.worker.shutdown_timeout * 1000))
    broker.close()
    return 0


def _wait(stop: SimpleQueue[int]) -> None:
    """Wait for a signal. One that comes just before the wait, or to another thread, does not end it: Python calls its
    handler at the next look."""
    while True:
        with contextlib.suppress(Empty):
            stop.get(timeout=_LOOK)
            return


def _answer_probes(settings: Settings, works: Callable[[], None], stop: SimpleQueue[int]) -> int:
    works()
    return health_server.serve(settings)
