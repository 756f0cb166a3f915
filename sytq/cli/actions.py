"""`sytq cancel` and `sytq retry`: what is done to tasks by their ids, here and now.

Owns the words. All that match a query are a worker's to change: `sytq bulk`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, Why, open_runtime, signed
from sytq.cli.output import as_json, cell
from sytq.cli.task_view import found_task
from sytq.states import CANCELLED, DEAD

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The tasks' ids.")]

_SAID = {
    "cancelled": "is cancelled",
    "asked": "runs, and is cancelled at its next step",
    "ended": "has ended",
    "queued": "runs again",
    "taken": "stays as it is: another unfinished task has its unique key",
    "refused": "is neither dead nor cancelled",
}
_FAILED = ("ended", "taken", "refused")


def cancel(
    ids: Ids,
    why: Why = "",
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Cancel tasks: one that waits at once, one that runs at its next step. Exit 1 when one has ended."""
    parts = open_runtime(file)
    found = [found_task(parts, task_id) for task_id in dict.fromkeys(ids)]  # all of them, or nothing is done
    outcomes = []
    for task in found:
        outcome = parts.operator.cancel(task.id, by=signed(why))
        if outcome != "ended":
            noted(parts, "task.cancel", task.id, why)
        outcomes.append((task.id, outcome))
    _tell(outcomes, json_wanted)


def retry(ids: Ids, json_wanted: AsJson = False, file: File = None) -> None:
    """Run dead or cancelled tasks again, with all their attempts before them. Exit 1 when one is neither."""
    parts = open_runtime(file)
    found = [found_task(parts, task_id) for task_id in dict.fromkeys(ids)]
    outcomes = []
    for task in found:
        outcome = "queued" if parts.operator.replay([task.id]) else "refused"
        if outcome == "queued":
            noted(parts, "task.retry", task.id)
        elif found_task(parts, task.id).state in (DEAD, CANCELLED):
            outcome = "taken"
        outcomes.append((task.id, outcome))
    _tell(outcomes, json_wanted)


def _tell(outcomes: list[tuple[str, str]], json_wanted: bool) -> None:
    failed = [task_id for task_id, outcome in outcomes if outcome in _FAILED]
    if json_wanted:
        as_json({"tasks": [{"id": task_id, "outcome": outcome} for task_id, outcome in outcomes], "next": None})
    else:
        for task_id, outcome in outcomes:
            typer.echo(f"{cell(task_id)} {_SAID[outcome]}", err=task_id in failed)
    raise typer.Exit(1 if failed else 0)
