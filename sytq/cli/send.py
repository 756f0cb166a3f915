"""`sytq send`: submit one task, and on request wait until it has ended."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Annotated

import typer

from sytq.cli.completion import complete_queue, complete_type
from sytq.cli.fields import VALID, payload
from sytq.cli.noted import noted
from sytq.cli.options import VALID_MOMENT, AsJson, File, ahead, open_runtime, refuse_unknown
from sytq.cli.output import as_json, cell, report
from sytq.cli.task_view import found_task, task_json
from sytq.cli.wait import Timeout, ended_code, follow
from sytq.errors import InvalidFields, InvalidInput
from sytq.ledger.insert import Accepted, NewTask
from sytq.ledger.query import parse
from sytq.runtime import Runtime
from sytq.states import PRIORITIES, SUCCEEDED

#: Characters that the column holds besides the type's name.
_MAX_KEY = 150


def _priority(text: str) -> str:
    if text in PRIORITIES:
        return text
    raise typer.BadParameter(f"'{text[:64]}' is not a priority; valid: {', '.join(PRIORITIES)}")


def _unique(text: str) -> str:
    if 0 < len(text) <= _MAX_KEY and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise typer.BadParameter(f"'{text[:64]}' is not a key; valid: 1 to {_MAX_KEY} visible ASCII characters, no spaces")


def send(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="Task type.", autocompletion=complete_type)],
    fields: Annotated[list[str] | None, typer.Argument(metavar="[FIELD]...", help=f"{VALID}.")] = None,
    priority: Annotated[
        str | None,
        typer.Option(
            "--priority",
            "-p",
            parser=_priority,
            metavar="PRIORITY",
            help=f"One of: {', '.join(PRIORITIES)}. Default: the priority of the type.",
            autocompletion=lambda: list(PRIORITIES),
        ),
    ] = None,
    at: Annotated[
        dt.datetime | None, typer.Option("--at", parser=ahead, metavar="WHEN", help=f"Earliest start: {VALID_MOMENT}.")
    ] = None,
    unique: Annotated[
        str | None,
        typer.Option(
            "--unique",
            "-u",
            parser=_unique,
            metavar="KEY",
            help="At most one unfinished task of the type has this key.",
        ),
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", "-q", help="Queue. Default: the queue of the type.", autocompletion=complete_queue),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end, print the result, exit like `sytq wait`.")
    ] = False,
    timeout: Timeout = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Submit a task and print its id. The payload must match the schema of the type."""
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout is valid only with --wait", param_hint="--timeout")
    parts = open_runtime(file)
    declared = parts.registry.get(type_name)
    try:
        given = payload(fields or ())
        task = parts.submitter.prepare(type_name, given, priority=priority, run_at=at, unique_key=unique)
    except InvalidFields as error:
        for name, message in error.fields:
            if message.startswith("Extra inputs"):
                message = f"not a field; valid: {', '.join(declared.payload.model_fields) or 'none'}"
            typer.echo(f"sytq: {cell(name)}: {cell(message)}", err=True)
        raise typer.Exit(1) from None
    (found,) = parts.submitter.submit([_in(parts, task, queue)])
    accepted, task_id = isinstance(found, Accepted), found.id
    if accepted:
        noted(parts, "task.send", task_id, type_name)
    else:
        typer.echo("Not submitted: an unfinished task has the same unique key; this is its id.", err=True)
    if not wait:
        report(json_wanted, {"id": task_id, "accepted": accepted}, task_id)
        return
    typer.echo(task_id, err=True)
    rows = follow(parts, [task_id], timeout)
    row = rows.get(task_id)
    if json_wanted:
        as_json(task_json(parts, row or found_task(parts, task_id)))
    elif row is None:
        typer.echo(f"The task has not ended yet; `sytq wait {task_id}` waits longer.", err=True)
    elif row.state == SUCCEEDED:
        typer.echo(json.dumps(json.loads(row.result or "null"), ensure_ascii=False))
    else:
        typer.echo(f"{row.state}: {cell(row.error)}", err=True)
    raise typer.Exit(ended_code([task_id], rows))


def _in(parts: Runtime, task: NewTask, queue: str | None) -> NewTask:
    if queue is None:
        return task
    try:
        refuse_unknown(parts, parse(f"queue:{queue}"))
    except InvalidInput as error:
        raise InvalidInput("queue", error.message) from None
    return dataclasses.replace(task, queue=queue)
