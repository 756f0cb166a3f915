"""`sytq send`: submit one task, and on request stay until it has ended.

Owns the words. What a payload may be is the type's, how it is written sytq.cli.fields'.
"""

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
from sytq.cli.output import as_json, cell
from sytq.cli.task_view import found_task, task_json
from sytq.cli.wait import Timeout, ended_code, follow
from sytq.errors import InvalidFields, InvalidInput
from sytq.ledger.insert import Accepted, NewTask
from sytq.ledger.query import parse
from sytq.runtime import Runtime
from sytq.states import PRIORITIES, SUCCEEDED
from sytq.tasktypes.declaration import TaskType

#: What the column takes besides the type's name.
_KEY_MOST = 150


def _priority(text: str) -> str:
    if text in PRIORITIES:
        return text
    raise typer.BadParameter(f"'{text[:64]}' is not a priority; valid: {', '.join(PRIORITIES)}")


def _unique(text: str) -> str:
    if 0 < len(text) <= _KEY_MOST and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise typer.BadParameter(f"'{text[:64]}' is not a key; valid: 1 to {_KEY_MOST} visible ASCII characters, no spaces")


def send(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="The task type.", autocompletion=complete_type)],
    fields: Annotated[list[str] | None, typer.Argument(metavar="[FIELD]...", help=f"{VALID}.")] = None,
    priority: Annotated[
        str | None,
        typer.Option(
            "--priority",
            "-p",
            parser=_priority,
            metavar="PRIORITY",
            help=", ".join(PRIORITIES),
            autocompletion=lambda: list(PRIORITIES),
        ),
    ] = None,
    at: Annotated[
        dt.datetime | None, typer.Option("--at", parser=ahead, metavar="WHEN", help=VALID_MOMENT + ".")
    ] = None,
    unique: Annotated[
        str | None,
        typer.Option("--unique", "-u", parser=_unique, metavar="KEY", help="One unfinished task of the type has it."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Instead of the type's own.", autocompletion=complete_queue)
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Stay until it has ended, print its result, exit as `sytq wait`.")
    ] = False,
    timeout: Timeout = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Submit a task and print its id. The payload is checked against the type's schema first."""
    if timeout is not None and not wait:
        raise typer.BadParameter("only --wait has an end", param_hint="--timeout")
    parts = open_runtime(file)
    declared = parts.registry.get(type_name)
    try:
        run_at = at.replace(tzinfo=None) if at else None
        task = parts.submitter.prepare(
            type_name, payload(fields or ()), priority=priority, run_at=run_at, unique_key=unique
        )
    except InvalidFields as error:
        for name, message in error.fields:
            typer.echo(f"sytq: {_explained(declared, cell(name), cell(message))}", err=True)
        raise typer.Exit(1) from None
    (found,) = parts.submitter.submit([_in(parts, task, queue)])
    accepted, task_id = isinstance(found, Accepted), found.id
    if accepted:
        noted(parts, "task.send", task_id, type_name)
    else:
        typer.echo("Not accepted again: an unfinished task with the same key stands.", err=True)
    if not wait:
        if json_wanted:
            as_json({"id": task_id, "accepted": accepted})
        else:
            typer.echo(task_id)
        return
    typer.echo(task_id, err=True)
    rows = follow(parts, [task_id], timeout)
    row = rows.get(task_id)
    if json_wanted:
        as_json(task_json(parts, row or found_task(parts, task_id)))
    elif row is None:
        typer.echo(f"It has not ended; `sytq wait {task_id}` goes on.", err=True)
    elif row.state == SUCCEEDED:
        typer.echo(json.dumps(json.loads(row.result or "null"), ensure_ascii=False))
    else:
        typer.echo(f"{row.state}: {cell(row.error)}", err=True)
    raise typer.Exit(ended_code([task_id], rows))


def _in(parts: Runtime, task: NewTask, queue: str | None) -> NewTask:
    """The task in another queue than its type's. Raises InvalidInput for one that nobody works on."""
    if queue is None:
        return task
    try:
        refuse_unknown(parts, parse(f"queue:{queue}"))
    except InvalidInput as error:
        raise InvalidInput("queue", error.message) from None
    return dataclasses.replace(task, queue=queue)


def _explained(declared: TaskType, name: str, message: str) -> str:
    """What is wrong with a field, and for a name that the type does not know those that it does."""
    if message.startswith("Extra inputs"):
        message = f"no such field; valid: {', '.join(declared.payload.model_fields) or 'none at all'}"
    return f"{name}: {message}"
