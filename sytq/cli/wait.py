"""`sytq wait`: stay until tasks have ended, and say by the exit status how.

Owns these exit statuses and the looking on. A task has ended when its row says so, as the result is in the row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from sytq.cli.options import AsJson, File, open_runtime, seconds
from sytq.cli.output import as_json, cell, progress_bar
from sytq.cli.task_view import found_task, task_json
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.service import status as overview
from sytq.states import CANCELLED, DEAD, TERMINAL

#: Exit statuses; of several tasks the first that applies. docs/cli.md has the table.
DIED, WAS_CANCELLED, TIMED_OUT = 3, 4, 5
_LOOK = 0.2
_PATIENCE = 5.0  # seconds until somebody who waits for a worker is told so

Timeout = Annotated[
    float | None, typer.Option("--timeout", parser=seconds, metavar="DURATION", help="Wait no longer than that.")
]


def wait(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The tasks' ids.")],
    timeout: Timeout = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Wait until tasks have ended. Exit 0 when all succeeded, 3 dead, 4 cancelled, 5 the time is up."""
    parts = open_runtime(file)
    asked = {task_id: found_task(parts, task_id) for task_id in dict.fromkeys(ids)}
    rows = follow(parts, list(asked), timeout)
    if json_wanted:
        as_json({"tasks": [task_json(parts, rows.get(task_id) or row) for task_id, row in asked.items()], "next": None})
    else:
        for task_id in asked:
            row = rows.get(task_id)
            said = (row.state, row.error or row.result or "") if row else ("not ended", "")
            typer.echo(cell("  ".join((task_id, *said))).rstrip())
    raise typer.Exit(ended_code(asked, rows))


def ended_code(ids: Sequence[str] | Mapping[str, object], rows: Mapping[str, Task]) -> int:
    """The exit status for these tasks, of which `rows` have ended."""
    states = {rows[task_id].state if task_id in rows else "" for task_id in ids}
    for state, code in ((DEAD, DIED), (CANCELLED, WAS_CANCELLED), ("", TIMED_OUT)):
        if state in states:
            return code
    return 0


def follow(parts: Runtime, ids: Sequence[str], timeout: float | None) -> dict[str, Task]:
    """Wait until these tasks have ended, or the time (seconds) is up; return the rows of those that have.

    A store that does not answer is waited for. On a terminal a bar on standard error says how far they are.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: dict[str, Task] = {}
    since, warned, told = time.monotonic(), False, False
    with _bar(len(ids)) as show:
        while True:
            open_ids = [task_id for task_id in ids if task_id not in ended]
            try:
                ended |= _look(parts, open_ids, show, len(ended))
            except DatabaseUnavailable as error:
                if not warned:
                    typer.echo(f"warning: {error}; it is waited for", err=True)
                warned = True
            if not (told or ended) and time.monotonic() - since > _PATIENCE:
                told = True
                _say_what_lacks(parts)
            left = None if deadline is None else deadline - time.monotonic()
            if len(ended) == len(ids) or (left is not None and left <= 0):
                return ended
            time.sleep(_LOOK if left is None else min(_LOOK, left))


def _say_what_lacks(parts: Runtime) -> None:
    try:
        if not any(worker["alive"] for worker in overview.workers(parts.inspection, parts.settings.worker.liveness)):
            typer.echo("There is no worker: see `sytq doctor`.", err=True)
    except RedisUnavailable as error:
        typer.echo(f"warning: {error}; it is waited for", err=True)


def _look(parts: Runtime, ids: Sequence[str], show: Any, before: int) -> dict[str, Task]:
    """The rows of those that have ended by now."""
    try:
        live = parts.inspection.live(ids)
    except RedisUnavailable:
        live = {}
    rows = parts.ledger.some([i for i in ids if i not in live or live[i].state in TERMINAL])
    ended = {task_id: row for task_id, row in rows.items() if row.state in TERMINAL}
    if len(ids) == 1 and not before and ids[0] in live:
        seen = live[ids[0]]
        progress = seen.progress or {}
        text = f"{seen.state} {progress.get('text') or ''}"
        show(completed=progress.get("done", 0), total=progress.get("of"), description=cell(text))
    else:
        show(completed=before + len(ended))
    return ended


@contextmanager
def _bar(count: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with progress_bar(*columns) as bar:
        shown = bar.add_task("waiting", total=count)
        yield lambda **fields: bar.update(shown, **fields)
