"""`sytq wait`: wait until tasks have ended by their rows, which hold the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from sytq.cli.options import AsJson, File, open_runtime, seconds
from sytq.cli.output import as_json, cell, progress_bar
from sytq.cli.task_view import found_task, task_json
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.service.hold import held
from sytq.states import CANCELLED, DEAD, TERMINAL

#: Exit statuses; the first that applies to any of the tasks.
DIED, WAS_CANCELLED, TIMED_OUT = 3, 4, 5
_INTERVAL = 0.2
_NOTICE_AFTER = 5.0  # seconds until the command reports that no worker is alive

Timeout = Annotated[
    float | None,
    typer.Option("--timeout", parser=seconds, metavar="DURATION", help="Stop waiting after this time. Default: never."),
]


def wait(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the tasks.")],
    timeout: Timeout = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Wait until tasks have ended. Exits 0 when all succeeded, 3 when one is dead, 4 when cancelled, 5 on timeout."""
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
    """The exit status for these tasks; `rows` are the ended ones."""
    states = {rows[task_id].state if task_id in rows else "" for task_id in ids}
    for state, code in ((DEAD, DIED), (CANCELLED, WAS_CANCELLED), ("", TIMED_OUT)):
        if state in states:
            return code
    return 0


def follow(
    parts: Runtime,
    ids: Sequence[str],
    timeout: float | None,
    reached: Callable[[Mapping[str, Any]], None] = lambda progress: None,
) -> dict[str, Task]:
    """Wait until these tasks have ended or the timeout (seconds) is over, and return the rows of ended ones.

    An unavailable store is retried. On a terminal a progress bar is shown on standard error. `reached` is called with
    each new progress of a single task.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: dict[str, Task] = {}
    since, warned, noticed = time.monotonic(), False, False
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with progress_bar(*columns) as bar:
        show = partial(bar.update, bar.add_task("waiting", total=len(ids)))
        while True:
            open_ids = [task_id for task_id in ids if task_id not in ended]
            try:
                ended |= _look(parts, open_ids, show, len(ended), reached)
            except DatabaseUnavailable as error:
                if not warned:
                    typer.echo(f"warning: {error}; still trying", err=True)
                warned = True
            if not (noticed or ended) and time.monotonic() - since > _NOTICE_AFTER:
                noticed = True
                _report_missing_workers(parts)
            left = None if deadline is None else deadline - time.monotonic()
            if len(ended) == len(ids) or (left is not None and left <= 0):
                return ended
            time.sleep(_INTERVAL if left is None else min(_INTERVAL, left))


def _report_missing_workers(parts: Runtime) -> None:
    try:
        if since := held(parts.database):
            typer.echo(f"The service is held {since}; see `sytq hold show`.", err=True)
        if all(worker.age > parts.settings.worker.liveness for worker in parts.inspection.workers()):
            typer.echo("No worker is running; see `sytq doctor`.", err=True)
    except (DatabaseUnavailable, RedisUnavailable) as error:
        typer.echo(f"warning: {error}; still trying", err=True)


def _look(
    parts: Runtime, ids: Sequence[str], show: Any, before: int, reached: Callable[[Mapping[str, Any]], None]
) -> dict[str, Task]:
    """The rows of the tasks that have ended by now."""
    try:
        live = parts.inspection.live(ids)
    except RedisUnavailable:
        live = {}
    rows = parts.ledger.some([i for i in ids if i not in live or live[i].state in TERMINAL])
    ended = {task_id: row for task_id, row in rows.items() if row.state in TERMINAL}
    if len(ids) == 1 and not before and ids[0] in live:
        seen = live[ids[0]]
        progress = seen.progress or {}
        if progress:
            reached(progress)
        text = f"{seen.state} {progress.get('text') or ''}"
        show(completed=progress.get("done", 0), total=progress.get("of"), description=cell(text))
    else:
        show(completed=before + len(ended))
    return ended
