"""`sytq dead`: the tasks that ended without success; find, replay and delete them.

Owns the words, and that nobody replays or deletes everything without saying so.
"""

from __future__ import annotations

import base64
from typing import Annotated

import typer

from sytq.bulk import given_up
from sytq.cli.bulk import operate
from sytq.cli.given import After, AsJson, File, Limit, Query, open_runtime, refuse_unknown
from sytq.cli.shown import age, as_json, cell, more, table
from sytq.errors import InvalidInput
from sytq.history import History
from sytq.ledger import utcnow
from sytq.runtime import Runtime
from sytq.view import iso, task_view

app = typer.Typer(no_args_is_help=True)

All = Annotated[bool, typer.Option("--all", help="All of them; needed when no filter is given.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the end; print the operation's id.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]


@app.command("list")
def list_(
    query: Query = "",
    limit: Limit = 20,
    after: After = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show dead tasks, the latest death first."""
    parts = open_runtime(file)
    wanted = given_up(query)
    page = History(parts.database).page(wanted, limit=limit, after=after)
    if not page.tasks:
        refuse_unknown(parts, wanted)
    if json_wanted:
        as_json({"tasks": [task_view(task, parts.registry) for task in page.tasks], "next": page.next})
        return
    now = utcnow()
    rows = [
        (
            task.id,
            task.type,
            task.attempts,
            age(max(0.0, (now - (task.finished_at or now)).total_seconds())),
            task.error,
        )
        for task in page.tasks
    ]
    table(("id", "type", "attempts", "died", "error"), rows)
    more(page.next)


@app.command()
def replay(
    query: Query = "",
    everything: All = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Run dead tasks again, with all their attempts before them, and print how many; a worker does it."""
    parts = open_runtime(file)
    chosen = _chosen(parts, everything, query)
    left = "unfinished tasks have their unique keys, or somebody else was faster"
    operate(parts, "retry", chosen, done="replayed", left=left, dry_run=dry_run, detach=detach, json_wanted=json_wanted)


@app.command()
def delete(
    query: Query = "",
    everything: All = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Delete dead tasks with all that is known of them, and print how many; a worker does it."""
    parts = open_runtime(file)
    chosen = _chosen(parts, everything, query)
    left = "somebody else was faster"
    operate(parts, "delete", chosen, done="deleted", left=left, dry_run=dry_run, detach=detach, json_wanted=json_wanted)


@app.command()
def unreadable(limit: Limit = 20, after: After = None, json_wanted: AsJson = False, file: File = None) -> None:
    """Show messages that could not be decoded and events that could not be recorded, with their raw bytes."""
    page = open_runtime(file).inspection.unreadable(limit=limit, after=after)
    if json_wanted:
        found = [
            {
                "id": item.id,
                "at": iso(item.at),
                "source": item.source,
                "reason": item.reason,
                "raw_base64": base64.b64encode(item.raw).decode(),
            }
            for item in page.items
        ]
        as_json({"messages": found, "next": page.next})
        return
    rows = [
        (item.id, iso(item.at), item.source, item.reason, len(item.raw), repr(item.raw)[2:82]) for item in page.items
    ]
    table(("id", "at", "from", "reason", "bytes", "begins with"), rows)
    more(page.next)


def _chosen(parts: Runtime, everything: bool, query: str) -> str:
    """The query, when it says what is meant. Raises BadParameter, InvalidInput."""
    if bool(query.strip()) == everything:
        raise typer.BadParameter("give either a query, such as 'type:webhook age:<1h', or --all")
    wanted = given_up(query)
    history = History(parts.database)
    if wanted.named("type") and not history.count(wanted):
        refuse_unknown(parts, wanted)
    if ids := wanted.named("id"):
        found = set(history.matching(wanted, ids))
        for task_id in ids:
            if task_id not in found:
                raise InvalidInput("id", f"there is no such task '{cell(task_id[:64])}' here; nothing was done")
    return wanted.text
