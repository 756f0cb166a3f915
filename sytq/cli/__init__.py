"""The command line: `sytq ...`.

Turns an error into one message without a traceback. Each command's module is imported only when the command is given.
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
    sections = MappingProxyType(
        {
            "Tasks": {
                "send": Place("send:send", "Submit a task and print its id."),
                "ls": Place("tasks:ls", "List the latest tasks that match a query."),
                "show": Place("tasks:show", "Show one task with its attempts and steps."),
                "wait": Place("wait:wait", "Wait until tasks have ended."),
                "retry": Place("actions:retry", "Run dead or cancelled tasks again."),
                "cancel": Place("actions:cancel", "Cancel tasks."),
                "logs": Place("logs:logs", "Show the events of tasks; follow them live."),
                "tasks": Place("tasks:app", "Count tasks, show a task tree, reschedule a task."),
                "bulk": Place("bulk:bulk", "Cancel, retry, reschedule or delete all tasks that match a query."),
                "dead": Place("dead:app", "List, replay and delete dead tasks."),
            },
            "Observability": {
                "queues": Place("queues:app", "Show queues with their running and delayed tasks."),
                "limiters": Place("limiters:app", "List, pause and resume limiters."),
                "top": Place("top:top", "Watch queues, workers, rates and failures live."),
                "stats": Place("stats:stats", "Summarize a period by task type: counts and durations."),
                "spend": Place("sytq_plugins.llm.command:spend", "Show calls, tokens and cost of providers."),
            },
            "Operations": {
                "dev": Place("dev:dev", "Run the whole service here, with one sample task."),
                "api": Place("serve:api", "Serve the HTTP API with gunicorn."),
                "worker": Place("serve:worker", "Run tasks in Dramatiq worker processes."),
                "doctor": Place("doctor:doctor", "Diagnose the installation and suggest fixes."),
                "config": Place("config:app", "Check and show the configuration."),
                "db": Place("db:app", "Migrate and check the database."),
                "restore": Place("restore:restore", "Restore a backup into the configured database."),
            },
            "Administration": {
                "types": Place("types:app", "Pause and resume task types."),
                "schedules": Place("schedules:app", "List, pause, resume and trigger schedules."),
                "key": Place("key:app", "Create, list, revoke and rotate API keys."),
                "audit": Place("audit:audit", "Show who changed what."),
            },
            "Integrations": {
                "plugin": Place("plugin:app", "List, create and check task types."),
                "webhook": Place("sytq_plugins.webhook.command:app", "Test a webhook receiver."),
                "openapi": Place("openapi:openapi", "Print the OpenAPI document."),
            },
        }
    )
    unlisted = MappingProxyType({"gates": sections["Observability"]["limiters"]})  # its name before 0.2


app = typer.Typer(
    name="sytq",
    cls=Root,
    help="A task queue service for slow and costly work. Start with `sytq dev`, which runs all of it in this terminal.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,  # pretty exceptions print local variables
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
    """Run the command line. The exit status is 2 for an unusable configuration and 1 for any other failure."""
    try:
        app()
    except SytqError as error:
        typer.echo(f"sytq: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        import peewee  # imported late: it takes longer than the whole of `sytq --help`

        if not isinstance(error, peewee.PeeweeException):
            raise
        # The server refused: wrong password, missing database or privilege.
        typer.echo(f"sytq: database: {' '.join(str(error.args[-1] if error.args else error).split())}", err=True)
        sys.exit(1)
