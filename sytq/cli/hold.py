"""`sytq hold`: start no task until an operator has looked at what would run, after a database or a Redis was restored.

Everything is done in this process: workers do nothing meanwhile.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import as_json, report, table
from sytq.errors import InvalidInput
from sytq.ledger import hold as ledger
from sytq.ledger.database import read, transact
from sytq.ledger.models import Pause
from sytq.ledger.values import iso, to_ms, utcnow
from sytq.runtime import Runtime
from sytq.service.adoption import Adoption
from sytq.service.recovery import Counts, Recovery

app = typer.Typer(no_args_is_help=True)

_ALL = "state:*"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the tasks; change nothing.")]


@app.command()
def on(
    why: Annotated[str, typer.Option("--why", help="A reason, shown while the service is held.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Start no task from now on; submissions are accepted and wait, running tasks end."""
    hold(open_runtime(file), why)
    report(json_wanted, {"held": True}, "held: no task starts before `sytq hold off`")


def hold(parts: Runtime, why: str) -> None:
    transact(parts.database, lambda: ledger.hold(utcnow(), person(), why))


@app.command()
def show(json_wanted: AsJson = False, file: File = None) -> None:
    """Show the hold, and what happens to unfinished tasks when it ends."""
    parts = open_runtime(file)
    row = read(parts.database, ledger.held)
    found = Recovery(parts.ledger, parts.inspection).compare()
    only_redis: Counts = Counter((one.live.type, one.live.state) for one in _adoption(parts).messages())
    groups = {
        "go on": found.goes_on,
        "wait for other tasks": found.waits,
        "run again, unless discarded": found.unknown,
        "have no row, unless adopted": only_redis,
    }
    since = {"since": iso(row.paused_at), "by": row.paused_by, "why": row.paused_why} if row else None
    rows = [
        (does, type_name, state, number)
        for does, counts in groups.items()
        for (type_name, state), number in sorted(counts.items())
    ]
    if json_wanted:
        names = ("does", "type", "state", "tasks")
        as_json({"hold": since, "tasks": [dict(zip(names, one, strict=True)) for one in rows]})
        return
    typer.echo(f"held since {since['since']} by {since['by']}: {since['why']}" if since else "not held")
    table(("they", "type", "state", "tasks"), rows)
    if found.unknown:
        typer.echo(
            f"Redis does not know {found.unknown.total()} unfinished tasks: they have ended after the state of this "
            f"database, or never started. It knows nothing from before {iso(_redis_since(parts))}.",
            err=True,
        )


@app.command()
def discard(
    query: Annotated[
        str, typer.Argument(metavar="[QUERY]", help="Only matching tasks, such as 'type:webhook'.")
    ] = _ALL,
    dry_run: DryRun = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """End the unfinished tasks that Redis does not know as cancelled, without a callback: they have ended before.

    Only for tasks from before the hold. `sytq dead replay state:cancelled` runs a discarded task after all.
    """
    parts = open_runtime(file)
    row = _refuse_unheld(parts)
    recovery = Recovery(parts.ledger, parts.inspection)
    if query == _ALL and _redis_since(parts) > to_ms(row.paused_at) / 1000:
        raise InvalidInput(
            "query", "Redis was emptied since: it cannot tell which tasks have ended; name them by a query"
        )
    if dry_run:
        number = sum(map(len, recovery.discardable(query, row.paused_at)))
        report(json_wanted, {"discarded": 0, "matched": number, "dry_run": True}, f"{number} would be discarded")
        return
    number = recovery.discard(query, row.paused_at, person())
    noted(parts, "hold.discard", query, f"{number} tasks")
    report(json_wanted, {"discarded": number, "matched": number, "dry_run": False}, f"{number} discarded")


@app.command()
def adopt(dry_run: DryRun = False, json_wanted: AsJson = False, file: File = None) -> None:
    """Insert rows for the tasks that Redis knows and the database does not.

    A message in Redis lacks owner, parent, callback, metadata and ordering key: these are lost.
    """
    parts = open_runtime(file)
    _refuse_unheld(parts)
    adoption = _adoption(parts)
    if dry_run:
        if json_wanted:
            as_json({"tasks": [message.shown() for message in adoption.messages()]})
        else:
            typer.echo(f"{sum(1 for _ in adoption.messages())} would be adopted")
        return
    number, lost = adoption.adopt()
    noted(parts, "hold.adopt", "", f"{number} tasks")
    if lost:
        typer.echo(f"{lost} have no message in Redis that can be decoded: nothing can bring them back", err=True)
    report(json_wanted, {"adopted": number, "lost": lost}, f"{number} adopted")


@app.command()
def off(
    again: Annotated[
        bool, typer.Option("--again", help="Also run the unfinished tasks that Redis does not know.")
    ] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """End the hold: tasks start again.

    Exits 1 while there are unfinished tasks from before the hold that Redis does not know, unless --again says to run
    them.
    """
    parts = open_runtime(file)
    row = _refuse_unheld(parts)
    recovery = Recovery(parts.ledger, parts.inspection)
    unknown = sum(map(len, recovery.discardable(_ALL, row.paused_at)))
    if unknown and not again:
        raise InvalidInput(
            "hold",
            f"Redis does not know {unknown} unfinished tasks: they would run, most likely again. `sytq hold discard` "
            "ends them, `sytq hold off --again` runs them",
        )
    found = recovery.compare()
    going_on = found.goes_on.total() + found.waits.total()
    detail = f"{going_on} tasks go on, {unknown} that Redis does not know run"
    transact(parts.database, lambda: ledger.end(utcnow(), person(), detail))
    report(json_wanted, {"held": False, "go_on": going_on, "run_again": unknown}, f"not held: {detail}")


def _refuse_unheld(parts: Runtime) -> Pause:
    row = read(parts.database, ledger.held)
    if row is None:
        raise InvalidInput("hold", "the service is not held: begin with `sytq hold on`")
    return row


def _redis_since(parts: Runtime) -> float:
    """When this Redis was first seen (Unix seconds); now, before that."""
    return parts.redis.time() - (parts.inspection.epoch_age() or 0.0)


def _adoption(parts: Runtime) -> Adoption:
    return Adoption(parts.ledger, parts.redis, parts.keys, parts.registry)
