"""`sytq seed`: make up history for trying things out, and take it away again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import progress_bar, report
from sytq.dev.folder import Folder
from sytq.dev.seed import figures, rows
from sytq.dev.seed.history import DAYS
from sytq.dev.seed.rows import Rows
from sytq.dev.seed.stories import Stories
from sytq.durations import format_duration
from sytq.errors import SytqError
from sytq.ledger.search_upkeep import begin_anew
from sytq.ledger.values import utcnow
from sytq.runtime import Runtime
from sytq.states import TERMINAL


def seed(
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=10_000_000, help="How many tasks to make up.")] = 10_000,
    number: Annotated[int, typer.Option("--seed", help="The same number makes up the same tasks.")] = 1,
    remove: Annotated[bool, typer.Option("--remove", help="Delete all made-up tasks instead.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Also into a database that has tasks of its own.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Make up history for trying things out: tasks of the last 8 days, nearly all ended. None of them runs.

    Refuses a database that has other tasks, unless it is that of `sytq dev` in this folder.
    """
    parts = open_runtime(file)
    if remove:
        _remove(parts, json_wanted)
        return
    path = Path(parts.settings.database_url.removeprefix("sqlite:///")).absolute()
    if not yes and path != Folder(Path(".sytq")).database and rows.others(parts.database):
        raise SytqError(
            "this database has tasks that are not made up: in production, made-up ones would falsify counts, charts"
            " and spend; with --yes they are added all the same (and `sytq seed --remove` deletes them)"
        )
    began = time.monotonic()
    with progress_bar() as bar:
        shown = bar.add_task("tasks", total=tasks)
        Stories(Rows(parts.database, lambda count: bar.advance(shown, count)), utcnow(), number).tell(tasks)
    figures.count(parts.database)
    begin_anew(parts.database)
    noted(parts, "ledger.seed", "made-up tasks", f"{tasks} added")
    seconds = round(time.monotonic() - began, 1)
    said = f"made up {tasks} tasks of the last {DAYS} days in {seconds} s; `sytq seed --remove` deletes them"
    report(json_wanted, {"tasks": tasks, "seed": number, "seconds": seconds}, said)
    if parts.settings.retention < DAYS * 86400:
        kept = format_duration(parts.settings.retention)
        typer.echo(f"note: `cleanup` deletes what ended more than {kept} ago (queue.retention)", err=True)


def _remove(parts: Runtime, json_wanted: bool) -> None:
    deleted = left = 0
    for page in rows.marked(parts.database):
        for task_id, state in page:
            if state not in TERMINAL:  # Redis may hold it for its time
                parts.operator.cancel(task_id, by=f"{person()}: sytq seed --remove")
        gone = rows.delete(parts.database, [task_id for task_id, _ in page])
        deleted, left = deleted + gone, left + len(page) - gone
    rows.forget_hosts(parts.database)
    if not rows.others(parts.database):  # figures of tasks that `cleanup` has deleted cannot be counted again
        figures.forget(parts.database)
    noted(parts, "ledger.seed", "made-up tasks", f"{deleted} deleted")
    said = f"deleted {deleted} made-up tasks"
    if left:
        said += f"; {left} are needed by others or still have to be recorded as cancelled: run it again in a moment"
    report(json_wanted, {"deleted": deleted, "left": left}, said)
