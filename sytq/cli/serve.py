"""`sytq api` and `sytq worker`: the two long-running processes with the configured sizes.

Owns their command lines. Must not serve anything: each becomes gunicorn or Dramatiq, once the configuration
is known to be usable.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from sytq.config import load
from sytq.errors import ConfigError, DatabaseUnavailable
from sytq.ledger.migrations import pending
from sytq.runtime import Runtime, build

File = Annotated[
    str | None, typer.Option("--file", "-f", help="The YAML file; default: the one that SYTQ_CONFIG names.")
]


def api(file: File = None) -> None:
    """Serve the HTTP API with gunicorn."""
    _usable(file)
    _become("gunicorn", "-c", "python:sytq.api.gunicorn_conf", "sytq.api:create_app()")


def worker(file: File = None) -> None:
    """Run tasks with Dramatiq worker processes."""
    parts = _usable(file)
    settings = parts.settings
    _refuse_without_tables(parts)
    known = {declared.queue for declared in parts.registry} | {"default"}
    for queue in settings.worker.queues:
        if queue not in known:
            typer.echo(f"worker.queues: '{queue}' is not a queue; valid: {', '.join(sorted(known))}", err=True)
            raise typer.Exit(2)
    _become(
        "sytq.worker.process",
        "sytq.actors",
        *("-p", str(settings.worker.processes)),
        *("-t", str(settings.worker.threads)),
        *("--worker-shutdown-timeout", str(round(settings.worker.shutdown_timeout * 1000))),
        # The master looks after its workers once all have booted or this time (ms) is up; one that is killed by its
        # first task never says that it has booted.
        *("--worker-fork-timeout", "5000"),
        *(("--queues", *settings.worker.queues) if settings.worker.queues else ()),
        # Only for who asks: it costs a process.
        *(
            ("--fork-function", "sytq.worker.health_server:main")
            if settings.worker.port or os.environ.get("NOTIFY_SOCKET")
            else ()
        ),
    )


def _usable(file: str | None) -> Runtime:
    """The parts of the service, or exit 2 with what is wrong with them or with the plugins."""
    if file is not None:
        os.environ["SYTQ_CONFIG"] = os.path.abspath(file)  # the processes to come read it again
    try:
        return build(load())
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _refuse_without_tables(parts: Runtime) -> None:
    """Exit 1 when the database lacks a migration; one that does not answer is waited for by the worker itself."""
    try:
        missing = pending(parts.database)
    except DatabaseUnavailable:
        return
    if missing:
        typer.echo(f"the database lacks {', '.join(missing)}: run `sytq db migrate`", err=True)
        raise typer.Exit(1)


def _become(module: str, *arguments: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # The same process: signals, exit status and the supervisor's view of it are the server's own.
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 (no shell on purpose)
