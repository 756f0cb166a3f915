"""`sytq cancel` and `sytq retry`: change single tasks by their ids, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, Why, open_runtime, signed
from sytq.cli.output import as_json, cell, stepwise
from sytq.cli.task_view import found_task
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.states import CANCELLED, DEAD

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the tasks.")]

_OUTCOMES = {
    "cancelled": "is cancelled",
    "asked": "is running and will be interrupted",
    "ended": "has already ended",
    "queued": "is queued again",
    "taken": "is unchanged: another unfinished task has its unique key",
    "refused": "is neither dead nor cancelled",
}
_FAILED = ("ended", "taken", "refused")


def cancel(ids: Ids, why: Why = "", json_wanted: AsJson = False, file: File = None) -> None:
    """Cancel tasks: waiting tasks end at once, running tasks are interrupted.

    Exits 1 when a task has already ended.
    """
    parts = open_runtime(file)

    def change(task: Task) -> str:
        outcome = parts.operator.cancel(task.id, by=signed(why))
        if outcome != "ended":
            noted(parts, "task.cancel", task.id, why)
        return outcome

    _change_each(parts, ids, change, json_wanted)


def retry(ids: Ids, json_wanted: AsJson = False, file: File = None) -> None:
    """Run dead or cancelled tasks again with a fresh set of attempts.

    Exits 1 when a task is neither dead nor cancelled.
    """
    parts = open_runtime(file)

    def change(task: Task) -> str:
        if parts.operator.replay([task.id]):
            noted(parts, "task.retry", task.id)
            return "queued"
        return "taken" if found_task(parts, task.id).state in (DEAD, CANCELLED) else "refused"

    _change_each(parts, ids, change, json_wanted)


def _change_each(parts: Runtime, ids: Sequence[str], change: Callable[[Task], str], json_wanted: bool) -> None:
    """Change tasks one by one and report the outcomes; Ctrl-C reports those of the changed ones."""
    found = [found_task(parts, task_id) for task_id in dict.fromkeys(ids)]  # an unknown id changes nothing
    outcomes: list[tuple[str, str]] = []
    try:
        for task in stepwise(found, json_wanted):
            outcomes.append((task.id, change(task)))
    except KeyboardInterrupt:
        _print(outcomes, json_wanted)
        said = f"{len(outcomes)} of {len(found)} tasks done; the next one may be, the others are as they were"
        typer.echo(f"\nInterrupted: {said}", err=True)
        raise typer.Exit(130) from None
    _print(outcomes, json_wanted)
    raise typer.Exit(1 if any(outcome in _FAILED for _, outcome in outcomes) else 0)


def _print(outcomes: list[tuple[str, str]], json_wanted: bool) -> None:
    if json_wanted:
        as_json({"tasks": [{"id": task_id, "outcome": outcome} for task_id, outcome in outcomes], "next": None})
        return
    for task_id, outcome in outcomes:
        typer.echo(f"{cell(task_id)} {_OUTCOMES[outcome]}", err=outcome in _FAILED)
