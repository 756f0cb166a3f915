"""The command line: `sytq ...`.

Owns the list of commands and how an error of ours reaches a person: one message, no traceback. What a command
does stands in its own module, which is imported when the command is given.
"""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import Annotated

import typer

import sytq
from sytq.cli.lazy import MARKUP, LazyGroup, Place
from sytq.errors import ConfigError, SytqError


class Root(LazyGroup):
    """What there is, in the order of `sytq --help`."""

    sections = MappingProxyType(
        {
            "Tasks": {
                "send": Place("send:send", "Submit a task and print its id."),
                "ls": Place("tasks:ls", "Show the latest tasks that match a query."),
                "show": Place("tasks:show", "Show one task with its attempts and steps."),
                "wait": Place("wait:wait", "Wait until tasks have ended."),
                "retry": Place("actions:retry", "Run dead or cancelled tasks again."),
                "cancel": Place("actions:cancel", "Cancel tasks."),
                "logs": Place("logs:logs", "Show what happens to tasks, as it happens."),
                "tasks": Place("tasks:app", "Count tasks; reschedule one, show what belongs to one."),
                "bulk": Place("bulk:bulk", "Cancel, retry, reschedule or delete all tasks that match a query."),
                "dead": Place("dead:app", "List, replay and delete dead tasks."),
            },
            "What is going on": {
                "queues": Place("queues:app", "Show queues, and what runs and is delayed in them."),
                "gates": Place("limiters:app", "List gates, show one; pause and resume one."),
                "top": Place("top:top", "Show what is going on, live."),
                "stats": Place("stats:stats", "Count the tasks of a period by type, and say how long they took."),
                "doctor": Place("doctor:doctor", "Check everything that sytq stands on, and say what to do."),
                "spend": Place("spend:spend", "Show calls, tokens and cost, the costliest first."),
                "audit": Place("audit:audit", "Show who did what to what, the latest first."),
            },
            "The service": {
                "dev": Place("dev:dev", "Run everything here, embedded, and one sample valuation through it."),
                "api": Place("serve:api", "Serve the HTTP API with gunicorn."),
                "worker": Place("serve:worker", "Run tasks with Dramatiq worker processes."),
                "config": Place("config:app", "Check and show the configuration."),
                "db": Place("db:app", "Migrate and check the database."),
                "restore": Place("restore:restore", "Restore a backup into the configured database."),
                "openapi": Place("openapi:openapi", "Print the OpenAPI document."),
            },
            "What it does for whom": {
                "plugin": Place("plugin:app", "List task types, write a new one, check one."),
                "types": Place("types:app", "Pause and resume a task type."),
                "schedules": Place("schedules:app", "List, pause, resume and trigger schedules."),
                "webhook": Place("webhook:app", "Try a receiver of webhooks."),
                "key": Place("key:app", "Create, list, revoke and rotate API keys."),
            },
        }
    )


app = typer.Typer(
    name="sytq",
    cls=Root,
    help="A task queue service for slow and costly work. `sytq dev` runs all of it here and now.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,  # the pretty ones print local variables
)


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
    except SytqError as error:
        typer.echo(f"sytq: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        import peewee  # only now: it takes longer to import than `sytq --help` does

        if not isinstance(error, peewee.PeeweeException):
            raise
        # What the server refused: a wrong password, a missing database, a missing right.
        typer.echo(f"sytq: database: {' '.join(str(error.args[-1] if error.args else error).split())}", err=True)
        sys.exit(1)
