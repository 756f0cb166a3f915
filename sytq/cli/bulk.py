"""A bulk operation as a command gives it: submitted, watched to its end, or left to itself.

Owns the words. The operation is a task, done by a worker; the command only looks on.
"""

from __future__ import annotations

import json
import time

import typer

from sytq import bulk
from sytq.cli.given import person
from sytq.cli.onetask import found_task, newer
from sytq.cli.shown import as_json
from sytq.history import History
from sytq.runtime import Runtime
from sytq.states import SUCCEEDED, TERMINAL

_LOOK = 0.2
_PATIENCE = 5.0  # seconds until somebody who waits for a worker is told so


def operate(
    parts: Runtime, action: str, query: str, *, done: str, left: str, dry_run: bool, detach: bool, json_wanted: bool
) -> None:
    """Do `action` to all that the query means. Exit 1 when the operation did not succeed."""
    history = History(parts.database)
    now = history.now()
    if dry_run:
        matched = history.count(bulk.targets(action, query, now))
        if json_wanted:
            as_json({"operation": None, "matched": matched, done: 0, "dry_run": True})
        else:
            typer.echo(f"{matched} would be {done}")
        return
    task = parts.submitter.prepare(bulk.TYPE, bulk.description(action, query, now, person(), None))
    parts.submitter.submit([task])
    hint = f"It goes on without this command: `sytq show {task.id}` watches, `sytq cancel {task.id}` stops."
    if detach:
        if json_wanted:
            as_json({"operation": task.id})
        else:
            typer.echo(task.id)
            typer.echo(hint, err=True)
        return
    try:
        result = _watched(parts, task.id)
    except KeyboardInterrupt:
        typer.echo(f"\n{hint}", err=True)
        raise typer.Exit(130) from None
    if json_wanted:
        as_json({"operation": task.id, "matched": result["matched"], done: result["changed"], "dry_run": False})
        return
    typer.echo(f"{result['changed']} {done}")
    if result["unchanged"]:
        typer.echo(f"{result['unchanged']} stay as they are: {left}", err=True)


def _watched(parts: Runtime, task_id: str) -> dict[str, int]:
    """The result, once it is there; meanwhile how far it is, on standard error."""
    started, said, told = time.monotonic(), "", False
    while True:
        row = found_task(parts, task_id)
        if row.state in TERMINAL:
            break
        live = newer(parts, [row]).get(task_id)
        if live is not None and live.progress and live.progress["text"] != said:
            said = live.progress["text"]
            typer.echo(f"{live.progress['done']} of {live.progress['of']}, {said}", err=True)
        if not told and row.attempts == 0 and time.monotonic() - started > _PATIENCE:
            told = True
            typer.echo("It waits for a worker; see `sytq queues list`.", err=True)
        time.sleep(_LOOK)
    if row.state != SUCCEEDED:
        typer.echo(f"sytq: the operation {task_id} is {row.state}: {row.error}", err=True)
        raise typer.Exit(1)
    result: dict[str, int] = json.loads(row.result or "{}")
    return result
