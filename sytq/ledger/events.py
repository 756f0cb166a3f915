"""Events of tasks, and the SQL that writes many of them at once.

Only legal state changes happen: a terminal row never changes, a smaller token never overwrites a larger one. Must not
begin a transaction: recording does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import peewee

from sytq.ledger.database import execute_many, is_mysql, marks
from sytq.ledger.values import plain
from sytq.states import RUNNING, TERMINAL


@dataclass(slots=True)  # not frozen: that triples the cost of construction
class Event:
    """One event of a task; `state` is the state after it."""

    id: str
    state: str
    token: int
    attempts: int
    worker: str | None = None
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    scheduled_at: dt.datetime | None = None  # of the next attempt
    outcome: str | None = None  # of the ended attempt: succeeded, retry, dead, cancelled, returned
    result: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    progress: str | None = None
    detail: str | None = None  # of the attempt, JSON text
    status: int | None = None
    host: str | None = None
    again: bool = False  # a start replacing an attempt whose end will not be reported


_TERMINAL = ", ".join(map(repr, TERMINAL))
#: The new value of each column of sytq_tasks, from the `event` and the row (`task`) before it.
_ASSIGNMENTS = {
    "state": "event.state",
    "token": "event.token",
    "attempts": "event.attempts",
    "worker": "COALESCE(event.worker, task.worker)",
    "started_at": "COALESCE(event.started_at, task.started_at)",
    "finished_at": "event.finished_at",  # NULL before the end
    "scheduled_at": "COALESCE(event.scheduled_at, task.scheduled_at)",
    "result": "event.result",
    "error": "COALESCE(event.error, task.error)",
    "error_fingerprint": "COALESCE(event.error_fingerprint, task.error_fingerprint)",
    "progress": "COALESCE(event.progress, task.progress)",
    "host": "COALESCE(task.host, event.host)",
}
_NAMES = ("id", *_ASSIGNMENTS)
_MAY_CHANGE = f"task.state NOT IN ({_TERMINAL}) AND task.token <= event.token"
#: For one task: SQLite takes longer for a join than for a statement of each.
_ONE = (
    "UPDATE sytq_tasks AS task SET "
    + ", ".join(f"{name} = {value.replace(f'event.{name}', '?')}" for name, value in _ASSIGNMENTS.items())
    + f" WHERE task.id = ? AND {_MAY_CHANGE.replace('event.token', '?')}"
)

#: What the starts of one fetch have in common, which is all that they change.
_START = attrgetter("token", "attempts", "worker", "started_at")
_STARTS = (
    f"UPDATE sytq_tasks SET state = '{RUNNING}', token = %s, attempts = %s, worker = COALESCE(%s, worker),"
    " started_at = COALESCE(%s, started_at), finished_at = NULL, result = NULL"
    f" WHERE state NOT IN ({_TERMINAL}) AND token <= %s AND id IN "
)
#: From so many starts on one statement for them costs less than their share of the one for all events.
_MANY = 8


def write_states(database: peewee.Database, events: Sequence[Event]) -> None:
    """Write one event for each task, inside the caller's transaction; rows that must not change stay unchanged."""
    if not is_mysql(database):
        execute_many(database, _ONE, [(*_values(event)[1:], event.id, event.token) for event in events])
        return
    # In the order of their ids, as every writer of many rows should: two that meet wait for each other then.
    fetches, others = _fetches(sorted(events, key=attrgetter("id")))
    for token, *same, ids in fetches:
        database.execute_sql(f"{_STARTS}({marks(database, len(ids))})", (token, *map(plain, same), token, *ids))
    for part in _parts(others):
        database.execute_sql(*_update(part))


def _update(events: Sequence[Event]) -> tuple[str, list[Any]]:
    """One statement for MySQL, and its values. What all events have in common stands in it once: of a source each row
    costs the server by its columns."""
    columns = dict(zip(_NAMES, zip(*map(_values, events), strict=True), strict=True))
    same = {name: values[0] for name, values in columns.items() if values.count(values[0]) == len(values)}
    same.pop("id", None)
    rows = {name: values for name, values in columns.items() if name not in same}
    expressions = {
        name: value.replace(f"event.{name}", "%s") if name in same else value for name, value in _ASSIGNMENTS.items()
    }
    assignments = ", ".join(f"task.{name} = {value}" for name, value in expressions.items())
    may_change = _MAY_CHANGE.replace("event.token", "%s") if "token" in same else _MAY_CHANGE
    joined = source(list(rows), len(events))
    sql = f"UPDATE sytq_tasks AS task JOIN {joined} ON task.id = event.id SET {assignments} WHERE {may_change}"
    shared = [*(same[name] for name in _ASSIGNMENTS if name in same), *([same["token"]] if "token" in same else ())]
    return sql, [plain(value) for value in chain(*zip(*rows.values(), strict=True), shared)]


def _values(event: Event) -> tuple[Any, ...]:
    """What an event has for `_NAMES`."""
    return (
        *(event.id, event.state, event.token, event.attempts, event.worker, event.started_at),
        event.finished_at if event.state in TERMINAL else None,
        *(event.scheduled_at, event.result, event.error, event.fingerprint, event.progress, event.host),
    )


def _fetches(events: Sequence[Event]) -> tuple[list[tuple[Any, ...]], list[Event]]:
    """What many starts have in common, with their ids; and the other events."""
    groups: dict[tuple[Any, ...], list[Event]] = {}
    others = []
    for event in events:
        if event.state == RUNNING:
            groups.setdefault(_START(event), []).append(event)
        else:
            others.append(event)
    others += [event for group in groups.values() if len(group) < _MANY for event in group]
    many = [(*same, [event.id for event in group]) for same, group in groups.items() if len(group) >= _MANY]
    return many, others


def source(names: Sequence[str], count: int) -> str:
    """So many rows of values for MySQL; the first one names the columns."""
    row = ", ".join(["%s"] * len(names))
    named = ", ".join(f"%s AS {name}" for name in names)
    return "(SELECT " + " UNION ALL SELECT ".join((named, *[row] * (count - 1))) + ") AS event"


#: Rows of one statement.
ROWS = 200


def _parts(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Split into statements below MySQL's max_allowed_packet (16 MiB by default)."""
    part: list[Event] = []
    size = 0
    for event in events:
        size += sum(len(text or "") for text in (event.result, event.error, event.progress))
        if part and (size > 1 << 20 or len(part) == ROWS):
            yield part
            part, size = [], 0
        part.append(event)
    if part:
        yield part
