"""`python -m sytq.worker.process`: Dramatiq's command line, logging in sytq's format.

Processes, signals and exit status are Dramatiq's. With `dramatiq sytq.actors` instead, the group's first process logs
plain text.
"""

from __future__ import annotations

import gc
import importlib
import sys

from dramatiq.cli import main as dramatiq
from dramatiq.cli import make_argument_parser

from sytq import config
from sytq.errors import ConfigError
from sytq.observability import logs


def main() -> int:
    """Run a group of workers until it has ended; return its exit status."""
    arguments = sys.argv[1:]
    # Imported once for all processes, which fork from this one. Imports are not garbage: none is looked for among them.
    gc.set_threshold(10_000, 10, 10)
    importlib.import_module("sytq.worker_runtime")
    try:
        settings = config.load()
    except ConfigError as error:
        sys.exit(f"sytq: {error}")
    logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)
    gc.freeze()
    # The command that Dramatiq executes again at a SIGHUP.
    sys.argv = [sys.executable, "-m", "sytq.worker.process", *arguments]
    given = make_argument_parser().parse_args([*arguments, "--skip-logging"])  # type: ignore[no-untyped-call]
    return int(dramatiq(given))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(main())
