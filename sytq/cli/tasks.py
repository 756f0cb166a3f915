"""`sytq tasks`: list, count and show tasks; submit, cancel and reschedule one.

Owns the words. How one task is shown is sytq.cli.onetask.
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated

import typer

from sytq.api.body import parse_object
from sytq.cli.given import VALID_MOMENT, After, AsJson, File, Limit, Query, ahead, open_runtime, person, refuse_unknown
from sytq.cli.onetask import found_task, newer, print_task, print_tree
from sytq.cli.shown import age, as_json, cell, more, table
from sytq.db import read
from sytq.history import COUNT_MOST, History
from sytq.ledger import utcnow
from sytq.query import parse
from sytq.runtime import Runtime
from sytq.states import PRIORITIES, STATES
from sytq.tree import tree as below
from sytq.view import iso, task_view

app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]
Payload = Annotated[
    bool, typer.Option("--payload/--no-payload", help="Whether to show payload, result and the steps' results.")
]


def _priority(text: str) -> str:
    if text in PRIORITIES:
        return text
    raise typer.BadParameter(f"'{text[:64]}' is not a priority; valid: {', '.join(PRIORITIES)}")


@app.command("list")
def list_(
    query: Query = "",
    limit: Limit = 20,
    after: After = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show the latest tasks that match, as the ledger has them: at most a second behind."""
    parts = open_runtime(file)
    wanted = parse(query)
    page = History(parts.database).page(wanted, limit=limit, after=after)
    if not page.tasks:
        refuse_unknown(parts, wanted)
    found = [task_view(task, parts.registry) for task in page.tasks]
    if json_wanted:
        as_json({"tasks": found, "next": page.next})
        return
    now = utcnow()
    rows = [
        (
            task.id,
            shown["type"],
            shown["queue"],
            shown["state"],
            shown["attempts"],
            age(max(0.0, (now - task.created_at).total_seconds())),
            task.error,
        )
        for task, shown in zip(page.tasks, found, strict=True)
    ]
    table(("id", "type", "queue", "state", "attempts", "age", "error"), rows)
    more(page.next)


@app.command()
def count(
    type_name: Annotated[str | None, typer.Option("--type", "-t", help="Only this type.")] = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Count tasks by type and state, and say how old the oldest unfinished ones are."""
    parts = open_runtime(file)
    types = [parts.registry.get(type_name).name] if type_name else sorted(known.name for known in parts.registry)
    counts = History(parts.database).counts(types)
    now = utcnow()
    oldest = {state: max(0.0, (now - at).total_seconds()) for state, at in counts.oldest.items()}
    if json_wanted:
        as_json({"types": counts.by_type, "oldest_seconds": oldest, "most": COUNT_MOST})
        return

    def number(of: int) -> str:
        return f">{COUNT_MOST}" if of > COUNT_MOST else str(of or "")

    rows: list[list[str | None]] = [
        [name, *(number(states[state]) for state in STATES)] for name, states in counts.by_type.items()
    ]
    table(("type", *STATES), [*rows, ["(oldest of all)", *(age(oldest.get(state)) for state in STATES)]])


@app.command()
def show(task_id: Id, payload: Payload = True, json_wanted: AsJson = False, file: File = None) -> None:
    """Show one task: its row, what Redis knows newer, and its attempts and steps as a timeline."""
    parts = open_runtime(file)
    print_task(parts, found_task(parts, task_id), payload=payload, json_wanted=json_wanted)


@app.command()
def tree(
    task_id: Id,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many tasks, those near the top first.")] = 200,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show a task and those below it: what it started, what that started, and what waits for others."""
    parts = open_runtime(file)
    root = found_task(parts, task_id)
    found = read(parts.database, lambda: below(root, limit))
    if json_wanted:
        as_json(found)
        return
    print_tree(found)


@app.command()
def submit(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="The task type.")],
    payload: Annotated[str, typer.Argument(metavar="[JSON|-]", help="A JSON object; - reads standard input.")] = "{}",
    priority: Annotated[
        str | None,
        typer.Option("--priority", "-p", parser=_priority, metavar="PRIORITY", help=", ".join(PRIORITIES)),
    ] = None,
    at: Annotated[
        dt.datetime | None, typer.Option("--at", parser=ahead, metavar="WHEN", help=VALID_MOMENT + ".")
    ] = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Submit a task and print its id."""
    parts = open_runtime(file)
    text = sys.stdin.buffer.read() if payload == "-" else payload.encode("utf-8", "surrogateescape")
    run_at = at.replace(tzinfo=None) if at else None
    task = parts.submitter.prepare(type_name, parse_object(text), priority=priority, run_at=run_at)
    standing = parts.submitter.submit([task]).get(task.id)
    if json_wanted:
        as_json({"id": standing or task.id, "accepted": standing is None})
        return
    if standing:
        typer.echo("Not accepted again: an unfinished task with the same key stands.", err=True)
    typer.echo(standing or task.id)


@app.command()
def cancel(
    task_id: Id,
    why: Annotated[str, typer.Option("--why", help="Shown with the task.")] = "",
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Cancel a task: one that waits at once, one that runs at its next step. Exit 1 when it has ended."""
    parts = open_runtime(file)
    outcome = parts.operator.cancel(task_id, by=f"{person()}: {why}" if why else person())
    if json_wanted:
        as_json({"id": task_id, "outcome": outcome})
    else:
        said = {"cancelled": "is cancelled", "asked": "runs, and is cancelled at its next step", "ended": "has ended"}
        typer.echo(f"{cell(task_id)} {said[outcome]}", err=outcome == "ended")
    raise typer.Exit(1 if outcome == "ended" else 0)


@app.command()
def reschedule(
    task_id: Id,
    when: Annotated[dt.datetime, typer.Argument(parser=ahead, metavar="WHEN", help=VALID_MOMENT + ".")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Give a scheduled or retrying task another time; `now` runs it. Exit 1 when it waits for none."""
    parts = open_runtime(file)
    moved = parts.operator.reschedule(task_id, when)
    moment = iso(when)
    if json_wanted:
        as_json({"id": task_id, "moved": moved, "at": moment if moved else None})
    elif moved:
        typer.echo(f"{cell(task_id)} runs at {moment}")
    else:
        typer.echo(f"{cell(task_id)} waits for no time: it is {_state_now(parts, task_id)}", err=True)
    raise typer.Exit(0 if moved else 1)


def _state_now(parts: Runtime, task_id: str) -> str:
    task = found_task(parts, task_id)
    live = newer(parts, [task]).get(task.id)
    return live.state if live else str(task.state)
