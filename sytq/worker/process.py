"""The first process of a group of workers: Dramatiq's, logging in sytq's format.

Processes, signals and exit status are Dramatiq's. With `dramatiq sytq.actors` instead, the group's first process logs
plain text.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

from dramatiq.cli import main as dramatiq
from dramatiq.cli import make_argument_parser

from sytq.config import Settings
from sytq.observability import logs
from sytq.observability.log_stream import LogStream


def run(settings: Settings) -> int:
    """Run a group of workers until it has ended; return its exit status."""
    # Imported once for all processes, which fork from this one.
    importlib.import_module("sytq.worker_runtime")
    sys.stderr = LogStream(sys.stderr)  # Dramatiq writes there what its processes log
    logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)
    gc.freeze()
    # What Dramatiq executes at a SIGHUP: the configuration is read and checked again.
    sys.argv = [sys.executable, "-m", "sytq.cli", "worker"]
    given = make_argument_parser().parse_args(arguments(settings))  # type: ignore[no-untyped-call]
    return int(dramatiq(given))  # type: ignore[no-untyped-call]


def arguments(settings: Settings) -> list[str]:
    """Dramatiq's command line for these settings."""
    worker = settings.worker
    return [
        "sytq.actors",
        "--skip-logging",
        *("-p", str(settings.worker_processes)),
        *("-t", str(worker.threads)),
        *("--worker-shutdown-timeout", str(round(worker.shutdown_timeout * 1000))),
        # The master watches its workers once all have booted or this time (ms) is up; a worker killed by its first task
        # never reports its boot.
        *("--worker-fork-timeout", "5000"),
        *(("--queues", *worker.queues) if worker.queues else ()),
        # Only on request: it costs a process.
        *(
            ("--fork-function", "sytq.worker.health_server:main")
            if worker.port or os.environ.get("NOTIFY_SOCKET")
            else ()
        ),
    ]
