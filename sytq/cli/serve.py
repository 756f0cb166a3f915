"""`sytq api` and `sytq worker`: check the configuration, then become gunicorn or run Dramatiq."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sytq.cli.hold import hold
from sytq.cli.options import File
from sytq.config import load
from sytq.errors import ConfigError, DatabaseUnavailable
from sytq.ledger.migrations import pending
from sytq.runtime import Runtime, build


def api(file: File = None) -> None:
    """Serve the HTTP API with gunicorn."""
    _usable(file)
    gunicorn = ("-m", "gunicorn", "-c", "python:sytq.api.gunicorn_conf", "sytq.api:create_app()")
    # The same process, so that signals and the exit status are the server's own.
    os.execv(sys.executable, [sys.executable, *gunicorn])  # noqa: S606 (no shell on purpose)


def worker(
    held: Annotated[bool, typer.Option("--held", help="Start no task before `sytq hold off`.")] = False,
    file: File = None,
) -> None:
    """Run tasks in Dramatiq worker processes."""
    parts = _usable(file)
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
    from sytq.worker import process  # Dramatiq's command line, which `sytq api` does not need

    sys.exit(process.run(settings))


def _usable(file: str | None) -> Runtime:
    """Build the runtime, or exit 2 with the problems of the configuration."""
    if file is not None:
        os.environ["SYTQ_CONFIG"] = os.path.abspath(file)  # child processes read the same file
    try:
        parts = build(load())
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
