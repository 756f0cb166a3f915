"""What the attempts of a task have left: answered nodes, the written end of its row, calls whose end is not known."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import peewee

from sytq.ledger.database import execute
from sytq.ledger.models import Step
from sytq.ledger.values import utcnow

_WRITTEN = "report"  # name of the checkpoint: this task has written the end of its row
_STANDING = (
    "SELECT 'done', name FROM sytq_steps WHERE task_id = ? AND state = 'done'"
    " UNION ALL SELECT 'begun', step FROM sytq_spend WHERE task_id = ? AND outcome = 'begun' AND token < ?"
    " UNION ALL SELECT 'owner', owner FROM sytq_tasks WHERE id = ?"
)
_MARK = (
    "INSERT INTO sytq_steps (task_id, name, token, state, value, interrupted, started_at, finished_at)"
    " SELECT ?, ?, ?, 'done', 'null', 0, ?, ? FROM (SELECT 1 AS one) AS source"
    " WHERE NOT EXISTS (SELECT 1 FROM sytq_steps WHERE task_id = ? AND name = ?)"
)


class Standing(NamedTuple):
    """The number of answered nodes; whether the end of the row is written, so that no attempt may touch it again; the
    steps with calls of earlier attempts whose end is not known; the task's owner."""

    done: int
    written: bool
    begun: Collection[str]
    owner: str | None


def standing(database: peewee.Database, task_id: str, token: int) -> Standing:
    """What attempts before the one with this token have left."""
    rows: list[tuple[str, str | None]] = execute(database, _STANDING, task_id, task_id, token, task_id).fetchall()
    done = [name for kind, name in rows if kind == "done" and name]
    begun = {name for kind, name in rows if kind == "begun" and name}
    owner = next((name for kind, name in rows if kind == "owner"), None)
    return Standing(sum(name.startswith("node-") for name in done), _WRITTEN in done, begun, owner)


def is_written(task_id: str) -> bool:
    """Whether the task has written the end of its row."""
    return Step.get_or_none(Step.task_id == task_id, Step.name == _WRITTEN) is not None


def mark_written(database: peewee.Database, task_id: str, token: int) -> bool:
    """Record, in the transaction that writes the end of the row, that it is written; False where it was before."""
    now = utcnow()
    return bool(execute(database, _MARK, task_id, _WRITTEN, token, now, now, task_id, _WRITTEN).rowcount)
