"""`sytq ls`, `sytq show` and `sytq tasks`: list, show and count tasks, reschedule one."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from sytq.cli import task_list
from sytq.cli.noted import noted
from sytq.cli.options import VALID_MOMENT, AsJson, File, OnlyType, ahead, open_runtime
from sytq.cli.output import age, as_json, cell, listing
from sytq.cli.task_view import found_task, newer, print_task, print_tree
from sytq.ledger.database import read
from sytq.ledger.query import parse
from sytq.ledger.search import COUNT_MAX, Search
from sytq.ledger.values import iso, utcnow
from sytq.service.live_state import current
from sytq.service.tree import tree as below
from sytq.states import STATES

app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
Payload = Annotated[bool, typer.Option("--payload/--no-payload", help="Show payload, result and the results of steps.")]


ls = task_list.lister(
    "List the latest tasks that match a query. The list is at most a second behind.",
    parse,
    {"id": "id", "type": "type", "queue": "queue", "state": "state", "attempts": "attempts"}
    | {"age": "created_at", "error": "error"},
)


@app.command()
def count(type_name: OnlyType = None, json_wanted: AsJson = False, file: File = None) -> None:
    """Count tasks by type and state. Also shows the age of the oldest task in each unfinished state."""
    parts = open_runtime(file)
    types = [parts.registry.get(type_name).name] if type_name else sorted(known.name for known in parts.registry)
    counts = Search(parts.database).counts(types)
    now = utcnow()
    oldest = {state: max(0.0, (now - at).total_seconds()) for state, at in counts.oldest.items()}

    def number(of: int) -> str:
        return f">{COUNT_MAX}" if of > COUNT_MAX else str(of or "")

    rows: list[list[str | None]] = [
        [name, *(number(states[state]) for state in STATES)] for name, states in counts.by_type.items()
    ]
    rows.append(["(oldest of all)", *(age(oldest.get(state)) for state in STATES)])
    found = {"types": counts.by_type, "oldest_seconds": oldest, "most": COUNT_MAX}
    listing(json_wanted, found, ("type", *STATES), rows)


def show(task_id: Id, payload: Payload = True, json_wanted: AsJson = False, file: File = None) -> None:
    """Show one task, with its attempts and steps as a timeline."""
    parts = open_runtime(file)
    print_task(parts, found_task(parts, task_id), payload=payload, json_wanted=json_wanted)


@app.command()
def tree(
    task_id: Id,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Maximum number of tasks; those near the root come first.")
    ] = 200,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show a task with its descendants. Descendants are the tasks that it submitted, and those that these submitted."""
    parts = open_runtime(file)
    root = found_task(parts, task_id)
    found = read(parts.database, lambda: below(root, limit))
    if json_wanted:
        as_json(found)
    else:
        print_tree(found)


@app.command()
def reschedule(
    task_id: Id,
    when: Annotated[dt.datetime, typer.Argument(parser=ahead, metavar="WHEN", help=f"The new time: {VALID_MOMENT}.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Change the time of a scheduled or retrying task. Exits 1 when the task is in another state."""
    parts = open_runtime(file)
    moved = parts.operator.reschedule(task_id, when)
    moment = iso(when)
    if moved:
        noted(parts, "task.reschedule", task_id, moment)
    if json_wanted:
        as_json({"id": task_id, "moved": moved, "at": moment if moved else None})
    elif moved:
        typer.echo(f"{cell(task_id)} runs at {moment}")
    else:
        task = found_task(parts, task_id)
        state = current(task, newer(parts, [task]).get(task.id)).state
        typer.echo(f"{cell(task_id)} is neither scheduled nor retrying: it is {state}", err=True)
    raise typer.Exit(0 if moved else 1)
