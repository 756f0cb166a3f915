"""Task type `bulk`: applies one change to all tasks that match a query, in small batches.

A batch is checkpointed, changed and counted, in this order: after a crash the next attempt finishes the batch.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sytq import Backoff, Context, Transaction, task
from sytq.errors import InvalidInput
from sytq.ledger.database import upsert
from sytq.ledger.models import Step
from sytq.ledger.query import Filter
from sytq.ledger.values import utcnow
from sytq.service.bulk import targets

_BATCH = 200
_NOTES = "batches"  # name of the checkpoint; a single row, as there may be thousands of batches


class Bulk(BaseModel):
    """What to do to which tasks, as of a moment (naive UTC); with an `owner` to that one's alone."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["cancel", "retry", "reschedule", "delete"]
    q: str
    as_of: dt.datetime
    by: str
    owner: str | None = None
    run_at: dt.datetime | None = None


def _show(payload: Bulk, result: Any) -> dict[str, object]:
    changed = f"{result['changed']:,} of {result['matched']:,}" if result else None
    return {"action": payload.action, "query": payload.q, "by": payload.by, "changed": changed}


class _Notes(BaseModel):
    """Progress: the counts so far, and the current batch."""

    matched: int
    done: int = 0
    changed: int = 0
    after: str | None = None
    batch: list[str] = []
    ended: bool = False


@task(
    "bulk",
    payload=Bulk,
    queue="bulk",
    retry=Backoff(first="1s", factor=2, max="1m", max_age="24h"),
    timeout="24h",
    priority="high",
    internal=True,
    role="operation",
    show=_show,
)
def bulk(ctx: Context, payload: Bulk) -> dict[str, Any]:
    """Cancel, retry, reschedule or delete all tasks that match a query."""
    wanted = targets(payload.action, payload.q, payload.as_of, payload.owner)
    if payload.action == "cancel":
        wanted = wanted.within(f"-id:{ctx.id}")
    notes = _recall(ctx) or _Notes(matched=ctx.history.count(wanted).number)
    resumed = bool(notes.batch)
    while not notes.ended:
        if not notes.batch:
            page = ctx.history.page(wanted, limit=_BATCH, after=notes.after)
            notes.batch, notes.after = [found.id for found in page.tasks], page.next
            _note(ctx, notes)
        notes.changed += _change(ctx, payload, wanted, notes.batch, resumed)
        resumed = False
        notes.done += len(notes.batch)
        notes.batch, notes.ended = [], notes.after is None
        _note(ctx, notes)
        ctx.progress(notes.done, max(notes.matched, notes.done), f"{notes.changed} changed")
    return {
        "action": payload.action,
        "matched": notes.done,
        "changed": notes.changed,
        "unchanged": notes.done - notes.changed,
    }


def _change(ctx: Context, payload: Bulk, wanted: Filter, ids: list[str], resumed: bool) -> int:
    """Change the `ids` that still match and return how many; those that an earlier attempt changed count as well."""
    left = ctx.history.matching(wanted, ids)
    changed = len(ids) - len(left) if resumed else 0
    if payload.action == "retry":
        return changed + ctx.operator.replay(left)
    if payload.action == "delete":
        return changed + ctx.operator.delete(left)
    for task_id in left:
        try:
            if payload.action == "cancel":
                changed += ctx.operator.cancel(task_id, payload.by) != "ended"
            else:
                assert payload.run_at is not None
                changed += ctx.operator.reschedule(task_id, payload.run_at)
        except InvalidInput:
            pass  # deleted in between
    return changed


def _recall(ctx: Context) -> _Notes | None:
    # Not `ctx.read`: an attempt that has lost its task must not repeat its last batch.
    found = ctx.transaction(lambda tx: Step.get_or_none(Step.task_id == ctx.id, Step.name == _NOTES))
    return _Notes.model_validate_json(found.value) if found and found.value else None


def _note(ctx: Context, notes: _Notes) -> None:
    """Checkpoint the progress; only while this attempt holds the task."""

    def write(tx: Transaction) -> None:
        state = "done" if notes.ended else "started"
        row = {"task_id": ctx.id, "name": _NOTES, "token": ctx.token, "state": state, "started_at": utcnow()}
        row["value"] = notes.model_dump_json()
        columns = {name: [value] for name, value in row.items()}
        upsert(tx.database, "sytq_steps", columns, key=("task_id", "name"), replace=("token", "state", "value"))

    ctx.transaction(write)
