"""Events of tasks, and the SQL that writes many of them at once.

Only legal state changes happen: a terminal row never changes, a smaller token never overwrites a larger one. Must not
begin a transaction: recording does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import peewee

from sytq.ledger.database import execute_many, insert_ignore, is_mysql, marks, upsert
from sytq.ledger.values import plain
from sytq.states import RUNNING, TERMINAL


@dataclass(frozen=True, slots=True)
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
    "finished_at": f"CASE WHEN event.state IN ({_TERMINAL}) THEN event.finished_at END",
    "scheduled_at": "COALESCE(event.scheduled_at, task.scheduled_at)",
    "result": "event.result",
    "error": "COALESCE(event.error, task.error)",
    "error_fingerprint": "COALESCE(event.error_fingerprint, task.error_fingerprint)",
    "progress": "COALESCE(event.progress, task.progress)",
    "host": "COALESCE(task.host, event.host)",
}
_NAMES = ("id", *_ASSIGNMENTS)
_VALUES = attrgetter(*("fingerprint" if name == "error_fingerprint" else name for name in _NAMES))
_MAY_CHANGE = f"task.state NOT IN ({_TERMINAL}) AND task.token <= event.token"


def write_states(database: peewee.Database, events: Sequence[Event]) -> None:
    """Write one event for each task, inside the caller's transaction; rows that must not change stay unchanged."""
    for part in _parts(events):
        values = [plain(value) for event in part for value in _VALUES(event)]
        # The first row names the columns.
        named = ", ".join(f"{marks(database, 1)} AS {name}" for name in _NAMES)
        others = [marks(database, len(_NAMES))] * (len(part) - 1)
        source = "(" + " UNION ALL ".join(f"SELECT {row}" for row in (named, *others)) + ") AS event"
        if is_mysql(database):
            assigned = ", ".join(f"task.{name} = {value}" for name, value in _ASSIGNMENTS.items())
            sql = f"UPDATE sytq_tasks AS task JOIN {source} ON task.id = event.id SET {assigned} WHERE {_MAY_CHANGE}"
        else:
            assigned = ", ".join(f"{name} = {value}" for name, value in _ASSIGNMENTS.items())
            sql = f"UPDATE sytq_tasks AS task SET {assigned} FROM {source} WHERE task.id = event.id AND {_MAY_CHANGE}"
        database.execute_sql(sql, values)


def write_attempts(database: peewee.Database, events: Iterable[Event]) -> None:
    """Write the starts and ends of attempts, inside the caller's transaction. Idempotent."""
    began, ended = [], []
    for event in events:
        if event.state == RUNNING:
            began.append(event)
        elif event.token and event.outcome:
            ended.append(event)
    insert_ignore(database, "sytq_attempts", _attempts(began))
    # The previous attempt never ended: its worker died or lost its connection, or Redis was emptied.
    lost = [(event.started_at, event.id, event.token) for event in began if event.again or event.attempts > 1]
    mark = marks(database, 1)
    where = f"task_id = {mark} AND token < {mark} AND outcome = 'running'"
    execute_many(database, f"UPDATE sytq_attempts SET outcome = 'lost', finished_at = {mark} WHERE {where}", lost)
    replaced = ("attempt", "outcome", "worker", "error", "status", "detail", "finished_at", "next_at")
    upsert(database, "sytq_attempts", _attempts(ended), key=("task_id", "token"), replace=replaced)


def _attempts(events: Sequence[Event]) -> dict[str, Sequence[Any]]:
    """The columns of sytq_attempts."""
    return {
        "task_id": [event.id for event in events],
        "token": [event.token for event in events],
        "attempt": [event.attempts for event in events],
        "outcome": [event.outcome or RUNNING for event in events],
        "worker": [event.worker for event in events],
        "error": [event.error for event in events],
        "status": [event.status for event in events],
        "detail": [event.detail for event in events],
        "started_at": [event.started_at for event in events],
        "finished_at": [event.finished_at for event in events],
        "next_at": [event.scheduled_at for event in events],
    }


def _parts(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Split into statements below MySQL's max_allowed_packet (16 MiB by default)."""
    part: list[Event] = []
    size = 0
    for event in events:
        size += sum(len(text or "") for text in (event.result, event.error, event.progress))
        if part and (size > 1 << 20 or len(part) == 200):
            yield part
            part, size = [], 0
        part.append(event)
    if part:
        yield part
