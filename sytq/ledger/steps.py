"""The steps of a task: begun, done, forgotten; and marks, steps without a result that say that something is done.

Functions belong inside a transaction of the caller. `finish` asks itself who may write; before the others
`Ledger.fenced` does.
"""

from __future__ import annotations

import peewee

from sytq.ledger.database import execute, is_mysql
from sytq.ledger.models import Step
from sytq.ledger.values import utcnow
from sytq.states import TERMINAL

#: A task that the attempt with this id and token holds.
HELD = f"id = ? AND token <= ? AND state NOT IN ({', '.join(map(repr, TERMINAL))})"
#: The fencing token of a step that no attempt is running.
_NOBODY = 0

_BEGIN = (
    "INSERT INTO sytq_steps (task_id, name, token, state, interrupted, started_at) VALUES (?, ?, ?, 'started', 0, ?)"
)
_DONE = "INSERT INTO sytq_steps (task_id, name, token, state, value, interrupted, started_at, finished_at) VALUES"
_MARK = "(?, ?, ?, 'done', 'null', 0, ?, ?)"
#: Locks the task's row; refused where the attempt does not hold the task, as a step has one. With a mark behind it that
#: takes the strict mode of ledger/pool.py: without it MySQL and MariaDB would write '' for no task, and the mark.
_RESULT = f"((SELECT id FROM sytq_tasks WHERE {HELD}{{lock}}), ?, ?, 'done', ?, 0, ?, ?)"
_CHANGING = ("state", "value", "token", "finished_at")
_REPLACE = "ON DUPLICATE KEY UPDATE value = IF(VALUES(value) = 'null', COALESCE(value, 'null'), VALUES(value)), " + (
    ", ".join(f"{name} = VALUES({name})" for name in _CHANGING if name != "value")  # a mark replaces no result
)
_REPLACE_SQLITE = (
    f"ON CONFLICT (task_id, name) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _CHANGING)}"
    " WHERE sytq_steps.state <> 'done' OR excluded.value <> 'null'"  # does not count a mark that is there
)


def begin(database: peewee.Database, task_id: str, token: int, name: str, has_result: bool) -> Step:
    """Return the step that begins now, or as an earlier attempt left it, but with this token."""
    now = utcnow()
    step = _insert(database, _BEGIN, task_id, name, token, now)
    if step is None:
        return Step(task_id=task_id, name=name, token=token, state="started", started_at=now)
    if step.state != "done" and step.token != token:
        step.interrupted += step.token != _NOBODY and not has_result
        step.token = token
        step.save()
    return step


def finish(database: peewee.Database, task_id: str, token: int, name: str, value: str, marked: str | None) -> bool:
    """Record a result and a mark; False where the task had the mark. Also a step whose begin a failover has forgotten.

    Raises IntegrityError where the attempt does not hold the task.
    """
    now, mysql = utcnow(), is_mysql(database)
    rows, values = _RESULT.format(lock=" FOR UPDATE" if mysql else ""), [task_id, token, name, token, value, now, now]
    if marked:
        rows, values = f"{rows}, {_MARK}", [*values, task_id, marked, token, now, now]
    changed = execute(database, f"{_DONE} {rows} {_REPLACE if mysql else _REPLACE_SQLITE}", *values).rowcount
    return changed in (2, 3)  # MySQL counts a row that it changes twice: 3 for a step that has begun, 4 with its mark


def mark(database: peewee.Database, task_id: str, token: int, name: str) -> bool:
    """Record a mark; False where the task has it."""
    now = utcnow()
    return _insert(database, f"{_DONE} {_MARK}", task_id, name, token, now, now) is None


def _insert(database: peewee.Database, sql: str, task_id: str, name: str, *values: object) -> Step | None:
    """Insert a step; return the one that is there in its place."""
    try:
        execute(database, sql, task_id, name, *values)
        return None
    except peewee.IntegrityError:
        found: Step | None = Step.get_or_none(Step.task_id == task_id, Step.name == name)
        if found is None:
            raise
        return found


def forget(task_id: str, name: str) -> None:
    """Remove a step that has begun; one that was interrupted before stays, as no attempt's."""
    begun = (Step.task_id == task_id) & (Step.name == name) & (Step.state == "started")
    Step.delete().where(begun, Step.interrupted == 0).execute()
    Step.update(token=_NOBODY).where(begun).execute()
