"""`sytq schedules`: what is submitted at which times; pause, resume, trigger.

Owns the words and the table. Ticks are sytq.schedule, what is noted is sytq.timetable.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sytq import overview
from sytq.cli.given import File, open_runtime, person
from sytq.cli.noted import noted
from sytq.errors import InvalidInput
from sytq.runtime import Runtime

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The schedule's name.")]


@app.command("list")
def list_(
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    count: Annotated[int, typer.Option("--next", min=1, max=100, help="How many next runs to show.")] = 1,
) -> None:
    """Show every schedule with its last and next runs."""
    parts = open_runtime(file)
    found = overview.schedules(parts, count)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    table = Table("name", "type", "schedule", "last", "next", "paused", box=None)
    for entry in found:
        pause = entry["paused"]
        said = f"since {pause['at']} by {pause['by']}: {pause['why']}" if pause else ""
        shown = (entry["name"], entry["type"], entry["schedule"], entry["last"] or "")
        table.add_row(*shown, "\n".join(entry["next"]), said)
    Console().print(table)


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="Shown to whoever finds it paused.")],
    file: File = None,
) -> None:
    """Stop submitting a schedule until `resume`; what is due meanwhile counts as missed."""
    parts = _with(name, file)
    parts.timetable.pause(name, dt.datetime.now(dt.UTC), by=person(), why=why)
    noted(parts, "schedule.pause", name, why)
    typer.echo(f"{name} is paused")


@app.command()
def resume(name: Name, file: File = None) -> None:
    """Submit a paused schedule again."""
    parts = _with(name, file)
    resumed = parts.timetable.resume(name)
    if resumed:
        noted(parts, "schedule.resume", name)
    typer.echo(f"{name} runs again" if resumed else f"{name} was not paused")


@app.command()
def trigger(name: Name, file: File = None) -> None:
    """Submit a schedule's task now, besides its times; prints the task's id."""
    parts = _with(name, file)
    scheduled = parts.registry.schedules[name]
    task = parts.submitter.prepare(scheduled.type, scheduled.schedule.payload)
    parts.submitter.submit([task])
    noted(parts, "schedule.trigger", name, task.id)
    typer.echo(task.id)


def _with(name: str, file: str | None) -> Runtime:
    parts = open_runtime(file)
    if name not in parts.registry.schedules:
        valid = ", ".join(sorted(parts.registry.schedules)) or "none is declared"
        raise InvalidInput("name", f"'{name}' is not a schedule; valid: {valid}")
    return parts
