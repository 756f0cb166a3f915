"""`sytq cancel` and `sytq retry`: change single tasks by their ids, in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, Why, open_runtime, signed
from sytq.cli.output import as_json, cell
from sytq.cli.task_view import found_task
from sytq.states import CANCELLED, DEAD

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the tasks.")]

_OUTCOMES = {
    "cancelled": "is cancelled",
    "asked": "is running and will be cancelled at its next step",
    "ended": "has already ended",
    "queued": "is queued again",
    "taken": "is unchanged: another unfinished task has its unique key",
    "refused": "is neither dead nor cancelled",
}
_FAILED = ("ended", "taken", "refused")


def cancel(
    ids: Ids,
    why: Why = "",
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Cancel tasks: a waiting task at once, a running task at its next step.

    Exits 1 when a task has already ended.
    """
    parts = open_runtime(file)
    found = [found_task(parts, task_id) for task_id in dict.fromkeys(ids)]  # an unknown id changes nothing
    outcomes = []
    for task in found:
        outcome = parts.operator.cancel(task.id, by=signed(why))
        if outcome != "ended":
            noted(parts, "task.cancel", task.id, why)
        outcomes.append((task.id, outcome))
    _report(outcomes, json_wanted)


def retry(ids: Ids, json_wanted: AsJson = False, file: File = None) -> None:
    """Run dead or cancelled tasks again with a fresh set of attempts.

    Exits 1 when a task is neither dead nor cancelled.
    """
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
    _report(outcomes, json_wanted)


def _report(outcomes: list[tuple[str, str]], json_wanted: bool) -> None:
    failed = [task_id for task_id, outcome in outcomes if outcome in _FAILED]
    if json_wanted:
        as_json({"tasks": [{"id": task_id, "outcome": outcome} for task_id, outcome in outcomes], "next": None})
    else:
        for task_id, outcome in outcomes:
            typer.echo(f"{cell(task_id)} {_OUTCOMES[outcome]}", err=task_id in failed)
    raise typer.Exit(1 if failed else 0)
