"""`sytq schedules`: list, pause, resume and trigger schedules."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq import clock
from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import age, cell, listing, report
from sytq.ledger.insert import Accepted
from sytq.ledger.schedules import Schedules
from sytq.ledger.values import iso
from sytq.runtime import Runtime
from sytq.service import status

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@app.command("list")
def list_(
    count: Annotated[int, typer.Option("--next", min=1, max=100, help="Number of upcoming runs to show.")] = 1,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """List all schedules with their last and next runs."""
    parts = open_runtime(file)
    found = status.schedules(parts.registry, Schedules(parts.database), count)
    rows = []
    for entry in found:
        pause = entry["paused"]
        said = f"since {pause['at']} by {pause['by']}: {pause['why']}" if pause else None
        last = entry["last"]
        if entry["ahead"] is not None:
            last = f"{last} ({age(entry['ahead'])} in the future: see `sytq doctor`)"
        shown = (entry["name"], entry["type"], entry["schedule"], last)
        rows.append((*shown, ", ".join(entry["next"]), said))
    listing(json_wanted, found, ("name", "type", "schedule", "last", "next", "paused"), rows)


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="A reason, shown while the schedule is paused.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Pause a schedule until `resume`. Runs that fall due meanwhile count as missed."""
    parts = _with(name, file)
    Schedules(parts.database).pause(name, clock.utc(), by=person(), why=why)
    noted(parts, "schedule.pause", name, why)
    report(json_wanted, {"schedule": name, "paused": True}, f"{name} is paused")


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Resume a paused schedule."""
    parts = _with(name, file)
    resumed = Schedules(parts.database).resume(name)
    if resumed:
        noted(parts, "schedule.resume", name)
    ticks = [iso(tick) for tick in parts.registry.schedules[name].schedule.upcoming(clock.utc(), 1)]
    then = f"its next run is at {ticks[0]}" if ticks else "it has no further run"
    said = f"{name} {'is resumed' if resumed else 'was not paused'}: {then}"
    report(json_wanted, {"schedule": name, "paused": False, "resumed": resumed, "next": ticks}, said)


@app.command()
def trigger(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Submit the task of a schedule now. Its regular times stay; the task's id is printed."""
    parts = _with(name, file)
    scheduled = parts.registry.schedules[name]
    task = parts.submitter.prepare(scheduled.type, scheduled.schedule.payload)
    (found,) = parts.submitter.submit([task])
    noted(parts, "schedule.trigger", name, found.id)
    accepted = isinstance(found, Accepted)
    if not accepted:
        typer.echo(f"Nothing was submitted: {cell(found.id)} has not ended and has the schedule's unique key", err=True)
    report(json_wanted, {"id": found.id, "accepted": accepted}, found.id)


def _with(name: str, file: str | None) -> Runtime:
    parts = open_runtime(file)
    parts.registry.schedule(name)
    return parts
