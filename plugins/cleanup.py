"""Task type `cleanup`: finished tasks older than the retention leave the ledger.

Owns the order of deletion and its batches. Must not touch a task that has not ended, nor a caller's table.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import peewee
from pydantic import BaseModel, ConfigDict

from sytq import Backoff, Context, Schedule, Transaction, task
from sytq.durations import Duration
from sytq.ledger import utcnow
from sytq.models import Attempt, Step, Task
from sytq.states import TERMINAL

_BATCH = 500  # tasks in one transaction: short enough that nobody waits for its locks


class Cleanup(BaseModel):
    """What to remove: tasks that ended more than `older_than` ago; without it, the configured retention."""

    model_config = ConfigDict(extra="forbid")

    older_than: Duration | None = None
    dry_run: bool = False


@task(
    "cleanup",
    payload=Cleanup,
    retry=Backoff(first="10s", factor=2, max="5m", max_attempts=5),
    timeout="10m",
    priority="low",
    schedule=Schedule(every="10m", missed="skip"),
)
def cleanup(ctx: Context, payload: Cleanup) -> dict[str, Any]:
    """Delete finished tasks with their attempts and steps once they are older than the retention."""
    age = ctx.settings.retention if payload.older_than is None else payload.older_than
    # Fixed at the start, so that tasks which end meanwhile do not keep it running.
    old = _ended_before(utcnow() - dt.timedelta(seconds=age))
    if payload.dry_run:
        return {"deleted": 0, "would_delete": ctx.transaction(lambda tx: old.count(tx.database))}
    deleted = 0
    while batch := ctx.transaction(lambda tx: _delete(tx, old)):
        deleted += batch
        ctx.progress(deleted, text=f"{deleted} finished tasks deleted")
    return {"deleted": deleted}


def _ended_before(time: dt.datetime) -> peewee.ModelSelect[Task]:
    return Task.select(Task.id).where(Task.state.in_(TERMINAL), Task.finished_at < time)


def _delete(tx: Transaction, old: peewee.ModelSelect[Task]) -> int:
    ids = [row.id for row in old.limit(_BATCH).execute(tx.database)]
    if ids:
        Attempt.delete().where(Attempt.task_id.in_(ids)).execute(tx.database)
        Step.delete().where(Step.task_id.in_(ids)).execute(tx.database)
        Task.delete().where(Task.id.in_(ids)).execute(tx.database)
    return len(ids)
