"""What the recorder writes of tasks that started and ended: one event, and its SQL for many of them at once.

Owns `Event` and the guard that only legal state changes happen: a terminal row never changes, a smaller token never
overwrites a larger one. Must not begin a transaction: that is the ledger's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import peewee

from sytq.ledger.database import execute_many, is_mysql, marks, plain
from sytq.states import RUNNING, TERMINAL


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a task's life, as the recorder writes it. `state` is the state after it."""

    id: str
    state: str
    token: int
    attempts: int
    worker: str | None = None
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    scheduled_at: dt.datetime | None = None  # of the next attempt
    outcome: str | None = None  # of the attempt that ended: succeeded, retry, dead, cancelled, returned
    result: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    progress: str | None = None
    detail: str | None = None  # of the attempt, JSON text
    status: int | None = None
    host: str | None = None
    again: bool = False  # a start in place of one of which no more will be heard


def write_states(database: peewee.Database, changes: list[Event]) -> None:
    """Write the state of each task once, inside the caller's transaction; what must not change it changes nothing."""
    mark = marks(database, 1)
    columns = (
        "id", "state", "token", "attempts", "worker", "started_at", "finished_at",
        "scheduled_at", "result", "error", "fingerprint", "progress", "host",
    )  # fmt: skip
    finished = ", ".join(f"'{state}'" for state in TERMINAL)
    for part in _chunks(changes):
        values: list[Any] = []
        selects: list[str] = []
        for change in part:
            row = [getattr(change, column) for column in columns]
            if change.state not in TERMINAL:
                row[6] = None
            values += row
            names = columns if not selects else ()
            selects.append(
                "SELECT " + (", ".join(f"{mark} AS {name}" for name in names) or marks(database, len(columns)))
            )
        source = f"({' UNION ALL '.join(selects)}) AS v"
        sets = {
            "state": "v.state",
            "token": "v.token",
            "attempts": "v.attempts",
            "worker": "COALESCE(v.worker, {t}worker)",
            "started_at": "COALESCE(v.started_at, {t}started_at)",
            "finished_at": "v.finished_at",
            "scheduled_at": "COALESCE(v.scheduled_at, {t}scheduled_at)",
            "result": "v.result",
            "error": "COALESCE(v.error, {t}error)",
            "error_fingerprint": "COALESCE(v.fingerprint, {t}error_fingerprint)",
            "progress": "COALESCE(v.progress, {t}progress)",
            "host": "COALESCE({t}host, v.host)",
        }
        guard = f"t.state NOT IN ({finished}) AND t.token <= v.token"
        if is_mysql(database):
            assign = ", ".join(f"t.{name} = {value.format(t='t.')}" for name, value in sets.items())
            sql = f"UPDATE sytq_tasks AS t JOIN {source} ON t.id = v.id SET {assign} WHERE {guard}"
        else:
            assign = ", ".join(f"{name} = {value.format(t='t.')}" for name, value in sets.items())
            sql = f"UPDATE sytq_tasks AS t SET {assign} FROM {source} WHERE t.id = v.id AND {guard}"
        database.execute_sql(sql, [plain(value) for value in values])


def write_attempts(database: peewee.Database, events: Iterable[Event]) -> None:
    """Write how attempts began and ended, inside the caller's transaction; repeating it is harmless."""
    changes = [event for event in events if event.state == RUNNING or (event.token and event.outcome)]
    columns = "task_id, token, attempt, outcome, worker, error, status, detail, started_at, finished_at, next_at"
    into = f"INSERT INTO sytq_attempts ({columns}) VALUES ({marks(database, 11)})"
    rows: dict[bool, list[tuple[Any, ...]]] = {True: [], False: []}
    for c in changes:
        rows[c.state == RUNNING].append(
            (c.id, c.token, c.attempts, c.outcome or RUNNING, c.worker, c.error, c.status, c.detail, c.started_at,
             c.finished_at, c.scheduled_at)
        )  # fmt: skip
    if is_mysql(database):
        keep, replace = "ON DUPLICATE KEY UPDATE token = token", "ON DUPLICATE KEY UPDATE "
        new = "VALUES({})"
    else:
        keep, replace = "ON CONFLICT DO NOTHING", "ON CONFLICT (task_id, token) DO UPDATE SET "
        new = "excluded.{}"
    replaced = ("attempt", "outcome", "worker", "error", "status", "detail", "finished_at", "next_at")
    replace += ", ".join(f"{name} = {new.format(name)}" for name in replaced)
    execute_many(database, f"{into} {keep}", rows[True])
    # A start after another that never ended: its worker died or was cut off, or Redis was emptied.
    again = [c for c in changes if c.state == RUNNING and (c.again or c.attempts > 1)]
    ended = [(c.started_at, c.id, c.token) for c in again]
    lost = "SET outcome = 'lost', finished_at = {0} WHERE task_id = {0} AND token < {0} AND outcome = 'running'"
    execute_many(database, f"UPDATE sytq_attempts {lost.format(marks(database, 1))}", ended)
    execute_many(database, f"{into} {replace}", rows[False])


def _chunks(changes: list[Event]) -> Iterable[list[Event]]:
    """Parts that one statement can carry: MySQL refuses those above max_allowed_packet (16 MiB by default)."""
    part: list[Event] = []
    size = 0
    for change in changes:
        size += sum(len(text or "") for text in (change.result, change.error, change.progress))
        if part and (size > 1 << 20 or len(part) == 200):
            yield part
            part, size = [], 0
        part.append(change)
    if part:
        yield part
