"""`sytq logs`: the timelines of tasks, also live, from the ledger and from Redis, which is newer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from sytq import clock
from sytq.cli.completion import complete_type
from sytq.cli.options import AsJson, open_runtime
from sytq.cli.output import as_json, cell
from sytq.cli.task_view import found_task, task_json
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.events import Event
from sytq.ledger.values import iso
from sytq.runtime import Runtime
from sytq.states import RUNNING, TERMINAL
from sytq.worker.loops.recorder import events_of

_INTERVAL = 0.3
_BLOCK = 1.0
_PAUSE = 1.0


class Line(NamedTuple):
    """One event; `at` is RFC 3339 in UTC, so lines sort by time."""

    at: str
    id: str
    type: str
    event: str


def logs(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Ids of the tasks. Default: every task, with --follow."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new events until the tasks have ended.")
    ] = False,
    type_name: Annotated[
        str | None,
        typer.Option("--type", "-t", help="Only tasks of this type; not valid with ids.", autocompletion=complete_type),
    ] = None,
    json_wanted: AsJson = False,
    file: Annotated[
        str | None, typer.Option("--file", help="The YAML file. Default: the file that SYTQ_CONFIG names.")
    ] = None,  # without -f, which means --follow here
) -> None:
    """Print the events of tasks, one per line; with --follow also the new ones.

    sytq does not keep the log lines of worker processes: use `journalctl -u 'sytq-*'`, `docker compose logs` or
    `kubectl logs`, and search for the task's id.
    """
    if (ids and type_name) or not (ids or follow):
        raise typer.BadParameter("give ids, or --follow for all tasks or those of one --type", param_hint="ID")
    parts = open_runtime(file)
    if type_name is not None:
        parts.registry.get(type_name)
    for line in _timelines(parts, list(dict.fromkeys(ids)), follow) if ids else _everything(parts, type_name):
        if json_wanted:
            as_json(line._asdict())
        else:
            typer.echo(cell(f"{line.at}  {line.id}  {line.type}  {line.event}"))


def _timelines(parts: Runtime, ids: list[str], follow: bool) -> Iterator[Line]:
    """Yield the merged timelines of these tasks; with `follow` until all have ended, with their progress."""
    printed: set[Line] = set()
    progress: dict[str, object] = {}
    for task_id in ids:
        found_task(parts, task_id)
    while ids:
        fresh: set[Line] = set()
        going = []
        try:
            for task_id in ids:
                seen = task_json(parts, found_task(parts, task_id), payload=False)
                name = seen["type"]
                fresh |= {Line(moment["at"], task_id, name, moment["event"]) for moment in seen["timeline"]}
                if follow and seen["state"] not in TERMINAL and seen["progress"] not in (None, progress.get(task_id)):
                    progress[task_id] = shown = seen["progress"]
                    said = f"progress {shown['done']} of {shown.get('of') or '?'} {shown.get('text') or ''}".rstrip()
                    fresh.add(Line(iso(clock.utc()), task_id, name, said))
                if seen["state"] not in TERMINAL or not seen["finished_at"]:
                    going.append(task_id)
        except DatabaseUnavailable as error:
            if not follow:
                raise
            typer.echo(f"warning: {error}; still trying", err=True)
            going = ids
        yield from sorted(fresh - printed)
        printed |= fresh
        ids = going if follow else []
        if ids:
            time.sleep(_INTERVAL)


def _everything(parts: Runtime, type_name: str | None) -> Iterator[Line]:
    """Yield every start and end from now on, from Redis alone."""
    after, types = parts.inspection.last_event(), dict[str, str]()
    while True:
        try:
            entries = parts.inspection.events(after, _BLOCK)
            changes = [(entry, change) for entry, fields in entries for change in events_of(fields)]
            types |= parts.inspection.types([change.id for _, change in changes if change.id not in types])
        except RedisUnavailable as error:
            typer.echo(f"warning: {error}; still trying", err=True)
            time.sleep(_PAUSE)
            continue
        for _, change in changes:
            name = types.get(change.id, "?")
            if type_name in (None, name):
                yield _line(change, name)
            if change.state in TERMINAL:
                types.pop(change.id, None)
        if entries:
            after = entries[-1][0]


def _line(change: Event, name: str) -> Line:
    at = change.started_at if change.state == RUNNING else change.finished_at
    assert at is not None
    if change.state == RUNNING:
        return Line(iso(at), change.id, name, f"attempt {change.attempts} started on {change.worker}")
    said = f"attempt {change.attempts} ended, {change.outcome or change.state}"
    said += f": {change.error}" if change.error else ""
    said += f"; the next at {iso(change.scheduled_at)}" if change.scheduled_at else ""
    return Line(iso(at), change.id, name, said)
