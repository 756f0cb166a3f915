"""The attempts of tasks: their rows, and what a task's own row says of the last one.

An attempt that succeeded and left nothing besides has no row of its own: the task's row has all that one would have,
its token being the moment of the start. Must not begin a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import peewee

from sytq.ledger.database import execute, execute_many, is_mysql, marks, upsert
from sytq.ledger.events import ROWS, Event, source
from sytq.ledger.models import Attempt, Task
from sytq.ledger.values import from_ms, plain
from sytq.states import RUNNING, SUCCEEDED

#: The last moment of a `datetime` in unix milliseconds.
_LAST = 253_402_300_799_999


def attempts_of(ids: Sequence[str], limit: int | None = None) -> dict[str, list[Attempt]]:
    """Return the attempts of each of these tasks, oldest first; of at most `limit` rows, the latest, besides their own.

    Needs a connection.
    """
    own = _own(ids)
    found = {task_id: [own[task_id]] if task_id in own else [] for task_id in ids}
    for row in Attempt.select().where(Attempt.task_id.in_(list(ids))).order_by(Attempt.token.desc()).limit(limit):
        last = own.get(row.task_id)
        if last is None or last.token != row.token:
            found[row.task_id].append(row)
        elif row.outcome == SUCCEEDED:  # else its start alone was recorded again, and perhaps given up for lost
            found[row.task_id][0] = row
    return {task_id: sorted(attempts, key=lambda attempt: attempt.token) for task_id, attempts in found.items()}


def _own(ids: Sequence[str]) -> dict[str, Attempt]:
    """The attempt with which each of these tasks succeeded."""
    columns = Task.id, Task.token, Task.attempts, Task.worker, Task.finished_at
    began = Task.token.between(1, _LAST)  # what another program wrote may have no time
    query = Task.select(*columns).where(Task.id.in_(list(ids)), Task.state == SUCCEEDED, Task.attempts > 0, began)
    return {
        row.id: Attempt(
            task_id=row.id,
            token=row.token,
            attempt=row.attempts,
            outcome=SUCCEEDED,
            worker=row.worker,
            started_at=from_ms(row.token),
            finished_at=row.finished_at,
        )
        for row in query
    }


def write_attempts(database: peewee.Database, events: Iterable[Event], *, again: bool = False) -> list[Event]:
    """Write the starts and ends of attempts, inside the caller's transaction. Idempotent.

    A start changes no row that is there; with its end it is one row. Return the ends that were not written, for
    `write_refused` once the states are; none if a start may have been recorded before (`again`), as it has a row then.
    """
    attempts: dict[tuple[str, int], Event] = {}
    replacing: list[Event] = []
    without: list[Event] = []
    for event in events:
        key = event.id, event.token
        if event.state == RUNNING:
            if event.again or event.attempts > 1:
                replacing.append(event)
            attempts.setdefault(key, event)
        elif event.token and event.outcome:
            start = attempts.pop(key, None)
            if start is not None:  # its time counts, as it does when the two are recorded apart
                event = replace(event, started_at=start.started_at or event.started_at)
            if start is not None and not again and _is_in_its_task(event):
                without.append(event)
            else:
                attempts[key] = event
    _write(database, [attempts[key] for key in sorted(attempts)])
    _end_replaced(database, replacing)
    return without


def _is_in_its_task(end: Event) -> bool:
    more = end.error, end.status, end.detail, end.scheduled_at
    return end.state == SUCCEEDED and more == (None, None, None, None) and end.started_at == from_ms(end.token)


_TAKEN = f"SELECT id, token FROM sytq_tasks WHERE state = '{SUCCEEDED}' AND id IN "


def write_refused(database: peewee.Database, ends: Sequence[Event]) -> None:
    """Write a row for each of these ends that its task's row has not taken: it had another end, or is not there."""
    taken: set[tuple[str, int]] = set()
    for first in range(0, len(ends), ROWS):
        part = [end.id for end in ends[first : first + ROWS]]
        taken.update(execute(database, f"{_TAKEN}({marks(database, len(part))})", *part).fetchall())
    _write(database, sorted((end for end in ends if (end.id, end.token) not in taken), key=lambda end: end.id))


_LOST = f"SET outcome = 'lost', finished_at = {{}} WHERE task_id = {{}} AND token < {{}} AND outcome = '{RUNNING}'"


def _end_replaced(database: peewee.Database, starts: Sequence[Event]) -> None:
    """The attempts before these that never ended: their worker died or lost its connection, or Redis was emptied."""
    values = [(plain(event.started_at), event.id, event.token) for event in starts]
    if not is_mysql(database):
        execute_many(database, f"UPDATE sytq_attempts {_LOST.format('?', '?', '?')}", values)
        return
    for first in range(0, len(values), ROWS):
        part = values[first : first + ROWS]
        rows = source(("at", "id", "later"), len(part))
        sql = f"UPDATE sytq_attempts JOIN {rows} {_LOST.format('at', 'id', 'later')}"
        database.execute_sql(sql, list(chain(*part)))


#: The columns of sytq_attempts, and what an event has for them.
_ATTEMPT = {
    "task_id": "id",
    "token": "token",
    "attempt": "attempts",
    "outcome": "outcome",
    "worker": "worker",
    "error": "error",
    "status": "status",
    "detail": "detail",
    "started_at": "started_at",
    "finished_at": "finished_at",
    "next_at": "scheduled_at",
}


def _attempts(events: Sequence[Event]) -> dict[str, Sequence[Any]]:
    """The columns of sytq_attempts."""
    columns: dict[str, Sequence[Any]] = {
        name: [getattr(event, of) for event in events] for name, of in _ATTEMPT.items()
    }
    columns["outcome"] = [outcome or RUNNING for outcome in columns["outcome"]]
    return columns


_REPLACED = ("attempt", "worker", "error", "status", "detail", "finished_at", "next_at", "outcome")


def _write(database: peewee.Database, events: Sequence[Event]) -> None:
    upsert(
        database,
        "sytq_attempts",
        _attempts(events),
        key=("task_id", "token"),
        replace=_REPLACED,
        unless=("outcome", RUNNING),
    )
