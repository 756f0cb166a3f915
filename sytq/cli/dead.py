"""`sytq dead`: the tasks that ended without success; find, show, replay and delete them.

Owns the words, and that nobody replays or deletes everything without saying so.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from sytq.cli.given import VALID_MOMENT, After, AsJson, File, Limit, ago, open_runtime
from sytq.cli.onetask import described, found_task, print_task
from sytq.cli.shown import age, as_json, cell, iso, more, table
from sytq.cli.tasks import Id, Payload
from sytq.errors import InvalidInput
from sytq.history import History, Match
from sytq.ledger import utcnow
from sytq.patterns import normal_host
from sytq.runtime import Runtime
from sytq.states import CANCELLED, DEAD

app = typer.Typer(help="List, show, replay and delete dead tasks.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this task; may be repeated.")]
Type = Annotated[str | None, typer.Option("--type", "-t", help="Only tasks of this type.")]
Host = Annotated[str | None, typer.Option("--host", help="Only tasks that call this host.")]
Error = Annotated[str | None, typer.Option("--error", help="Only tasks whose error has this text in it.")]
Since = Annotated[
    dt.datetime | None,
    typer.Option("--since", parser=ago, metavar="WHEN", help=f"Only those that died then or later: {VALID_MOMENT}."),
]
Before = Annotated[
    dt.datetime | None, typer.Option("--before", parser=ago, metavar="WHEN", help="Only those that died before.")
]
Cancelled = Annotated[bool, typer.Option("--cancelled", help="Cancelled tasks in place of dead ones.")]
All = Annotated[bool, typer.Option("--all", help="All of them; needed when no filter is given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]


@app.command("list")
def list_(
    type_name: Type = None,
    host: Host = None,
    error: Error = None,
    since: Since = None,
    before: Before = None,
    ids: Ids = None,
    cancelled: Cancelled = False,
    limit: Limit = 20,
    after: After = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show dead tasks, the latest death first."""
    parts = open_runtime(file)
    match = _match(type_name, host, error, since, before, ids, cancelled)
    page = History(parts.database).page(match, limit=limit, after=after)
    if not page.tasks and type_name is not None:
        parts.registry.get(type_name)  # or it says which there are
    if json_wanted:
        as_json({"tasks": [described(parts, task, None) for task in page.tasks], "next": page.next})
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
def show(task_id: Id, payload: Payload = True, json_wanted: AsJson = False, file: File = None) -> None:
    """Show one dead task with its attempts and steps."""
    parts = open_runtime(file)
    task = found_task(parts, task_id)
    if task.state not in (DEAD, CANCELLED):
        raise InvalidInput("id", f"task {task.id} is not dead but {task.state}; see `sytq tasks show`")
    print_task(parts, task, payload=payload, json_wanted=json_wanted)


@app.command()
def replay(
    type_name: Type = None,
    host: Host = None,
    error: Error = None,
    since: Since = None,
    before: Before = None,
    ids: Ids = None,
    cancelled: Cancelled = False,
    everything: All = False,
    dry_run: DryRun = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Run dead tasks again, with all their attempts before them, and print how many."""
    parts = open_runtime(file)
    match = _chosen(parts, everything, _match(type_name, host, error, since, before, ids, cancelled))
    left = "unfinished tasks have their unique keys, or somebody else was faster"
    _change(parts, match, "replayed", parts.operator.replay, left, dry_run, json_wanted)


@app.command()
def delete(
    type_name: Type = None,
    host: Host = None,
    error: Error = None,
    since: Since = None,
    before: Before = None,
    ids: Ids = None,
    cancelled: Cancelled = False,
    everything: All = False,
    dry_run: DryRun = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Delete dead tasks with all that is known of them, and print how many."""
    parts = open_runtime(file)
    match = _chosen(parts, everything, _match(type_name, host, error, since, before, ids, cancelled))
    left = "somebody else was faster"
    _change(parts, match, "deleted", parts.operator.delete, left, dry_run, json_wanted)


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


def _match(
    type_name: str | None,
    host: str | None,
    error: str | None,
    since: dt.datetime | None,
    before: dt.datetime | None,
    ids: list[str] | None,
    cancelled: bool,
) -> Match:
    return Match(
        (CANCELLED if cancelled else DEAD,),
        type_name,
        error=error,
        since=since,
        before=before,
        ids=tuple(dict.fromkeys(ids or ())),
        host=normal_host(host) if host else None,
    )


def _chosen(parts: Runtime, everything: bool, match: Match) -> Match:
    """The match, when it says what is meant. Raises BadParameter, InvalidInput."""
    filtered = any((match.type, match.host, match.error, match.since, match.before, match.ids))
    if filtered == everything:
        raise typer.BadParameter("give either --all or some of --id, --type, --host, --error, --since, --before")
    if match.type is not None and match.type not in parts.registry and not History(parts.database).count(match):
        parts.registry.get(match.type)  # says which there are
    if match.ids:
        found = {task.id for page in History(parts.database).pages(match) for task in page}
        for task_id in match.ids:
            if task_id not in found:
                word = match.states[0]
                raise InvalidInput(
                    "id", f"there is no {word} task '{cell(task_id[:64])}' that matches; nothing was done"
                )
    return match


def _change(
    parts: Runtime,
    match: Match,
    done: str,
    change: Callable[[Sequence[str]], int],
    left: str,
    dry_run: bool,
    json_wanted: bool,
) -> None:
    history = History(parts.database)
    if dry_run:
        matched, changed = history.count(match), 0
    else:
        matched = changed = 0
        for page in history.pages(match):
            ids = [task.id for task in page]
            matched += len(ids)
            changed += change(ids)
    if json_wanted:
        as_json({"matched": matched, done: changed, "dry_run": dry_run})
    elif dry_run:
        typer.echo(f"{matched} would be {done}")
    else:
        typer.echo(f"{changed} {done}")
        if changed < matched:
            typer.echo(f"{matched - changed} stay as they are: {left}", err=True)
