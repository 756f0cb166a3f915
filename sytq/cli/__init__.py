"""The command line: `sytq ...`.

Owns the list of commands and how an error of ours reaches a person: one message, no traceback. What a command
does stands in its own module.
"""

from __future__ import annotations

import sys
from typing import Annotated

import peewee
import typer

import sytq
from sytq.cli import (
    audit,
    config,
    db,
    dead,
    dev,
    gates,
    key,
    openapi,
    queues,
    restore,
    schedules,
    serve,
    spend,
    tasks,
    types,
    webhook,
)
from sytq.errors import ConfigError, SytqError

app = typer.Typer(
    name="sytq",
    help="A task queue service for slow and costly work. `sytq dev` runs all of it here and now.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text also where a terminal is narrow or none
    pretty_exceptions_enable=False,  # the pretty ones print local variables
)
app.command()(dev.dev)
app.command()(openapi.openapi)
app.add_typer(serve.app)
app.add_typer(config.app, name="config")
app.add_typer(db.app, name="db")
app.add_typer(tasks.app, name="tasks")
app.add_typer(queues.app, name="queues")
app.add_typer(gates.app, name="gates")
app.add_typer(dead.app, name="dead")
app.add_typer(types.app, name="types")
app.add_typer(schedules.app, name="schedules")
app.add_typer(webhook.app, name="webhook")
app.command()(restore.restore)
app.command()(spend.spend)
app.add_typer(key.app, name="key")
app.command()(audit.audit)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sytq {sytq.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit status 2 for a configuration that cannot be used, 1 for what failed."""
    try:
        app()
    except peewee.PeeweeException as error:
        # What the server refused: a wrong password, a missing database, a missing right.
        typer.echo(f"sytq: database: {' '.join(str(error.args[-1] if error.args else error).split())}", err=True)
        sys.exit(1)
    except SytqError as error:
        typer.echo(f"sytq: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
