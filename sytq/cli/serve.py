"""`sytq api` and `sytq worker`: check the configuration, then become gunicorn or supervise worker processes."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Annotated

import typer

from sytq.cli.hold import hold
from sytq.cli.options import File
from sytq.config import load
from sytq.errors import ConfigError, DatabaseUnavailable
from sytq.ledger.migrations import pending
from sytq.observability import logs
from sytq.runtime import Runtime, build


def api(file: File = None) -> None:
    """Serve the HTTP API with gunicorn."""
    _usable(file, "api")
    gunicorn = ("-m", "gunicorn", "-c", "python:sytq.api.gunicorn_conf", "sytq.api:create_app()")
    # The same process, so that signals and the exit status are the server's own.
    os.execv(sys.executable, [sys.executable, *gunicorn])  # noqa: S606 (no shell on purpose)


def worker(
    held: Annotated[bool, typer.Option("--held", help="Start no task before `sytq hold off`.")] = False,
    file: File = None,
) -> None:
    """Run tasks in Dramatiq worker processes."""
    parts = _usable(file, "worker")
    settings = parts.settings
    _refuse_without_tables(parts)
    if held:
        hold(parts, "started with --held")
        parts.database.close_all()  # type: ignore[attr-defined]
    known = parts.registry.queues
    for queue in settings.worker.queues:
        if queue not in known:
            typer.echo(f"worker.queues: '{queue}' is not a queue; valid: {', '.join(sorted(known))}", err=True)
            raise typer.Exit(2)
    # Imported once for all processes, which fork from this one; `sytq api` needs none of it.
    from sytq.worker import process
    from sytq.worker_runtime import boot

    sys.exit(process.run(settings, partial(boot, parts)))


def _usable(file: str | None, name: str) -> Runtime:
    """Build the runtime of the process `name`, or exit 2 with the problems of the configuration."""
    if file is not None:
        os.environ["SYTQ_CONFIG"] = os.path.abspath(file)  # child processes read the same file
    try:
        settings = load()
        logs.configure(settings.logger.level, settings.log_format, name, settings.logger.fields)
        parts = build(settings)
        parts.redis  # noqa: B018 (built here, so that an option of its URL is refused before the server starts)
        return parts
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _refuse_without_tables(parts: Runtime) -> None:
    """Exit 1 when a migration is pending; say what an unavailable database says, for which a worker waits."""
    try:
        missing = pending(parts.database, parts.registry.plugins)
    except DatabaseUnavailable as error:
        typer.echo(f"sytq: {error}; waiting for it", err=True)
        return
    finally:
        parts.database.close_all()  # type: ignore[attr-defined]  # no worker inherits a connection
    if missing:
        typer.echo(f"the database lacks {', '.join(missing)}: run `sytq db migrate`", err=True)
        raise typer.Exit(1)
