"""Task type `cleanup`: deletes ended tasks, records and files that are past their retention.

Rows are searched without a lock and deleted by key, one batch per transaction. Tasks that have not ended or that
unfinished tasks may still read, and callers' tables, stay untouched.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import peewee
from pydantic import BaseModel, ConfigDict, Field

from sytq import Context, Schedule, task
from sytq.config import Section
from sytq.config.values import Name
from sytq.durations import Duration
from sytq.ledger.deletion import delete_ended, needed
from sytq.ledger.idempotency import KEPT
from sytq.ledger.models import Task
from sytq.ledger.values import utcnow
from sytq.states import TERMINAL

from .webhook.config import WebhookSettings

_BATCH = 500  # rows per transaction: few, so that its locks block no other transaction
_DAY = 86400.0
_YEAR = 365 * _DAY
#: Records that outlast their task: configuration key, table, key column, time column and its length in characters.
_OTHERS = (
    ("audit", "sytq_audit", "id", "at", 26),
    ("spend", "sytq_spend", "task_id", "day", 10),
    ("spend", "sytq_spend_days", "day", "day", 10),
    ("spend", "sytq_budgets", "day", "day", 10),
    ("hosts", "sytq_failing_hosts", "host", "since", 26),
)
#: Only files that built-in types write.
_FILES = ("report-*", "backup-*")


class Cleanup(BaseModel):
    """What to delete: tasks that ended more than `older_than` ago; by default, tasks past their retention."""

    model_config = ConfigDict(extra="forbid")

    older_than: Duration | None = None
    dry_run: bool = False


class Config(Section):
    """`types.cleanup`: retention times; a task's type takes precedence over its state, and both over
    `queue.retention`."""

    states: dict[Literal["succeeded", "dead", "cancelled"], Duration] = Field(default={})
    types: dict[Name, Duration] = Field(default={})
    audit: Duration = _YEAR
    spend: Duration = _YEAR
    hosts: Duration = 30 * _DAY
    files: dict[Path, Duration] = Field(default={})


@task(
    "cleanup",
    payload=Cleanup,
    config=Config,
    priority="low",
    schedule=Schedule(every="10m", missed="skip"),
    admin_only=True,
)
def cleanup(ctx: Context, payload: Cleanup) -> dict[str, Any]:
    """Delete what is past its retention: tasks with attempts and steps, audit, spend, hosts, files."""
    # Fixed at the start, so that tasks that end meanwhile do not prolong the run.
    now = utcnow()
    found: dict[str, Any] = {"dry_run": payload.dry_run, "tasks": 0, "audit": 0, "spend": 0, "hosts": 0, "files": 0}
    for condition in _old_tasks(ctx, payload, now):
        found["tasks"] += _tasks(ctx, condition, payload.dry_run)
    for key, table, column, moment, length in _OTHERS:
        if ctx.read(lambda database, table=table: database.table_exists(table)):  # type: ignore[misc]
            age = getattr(ctx.config, key)
            if key == "hosts":  # a row is in use until its host is given up
                age += ctx.settings.of(WebhookSettings).webhook.disable_after or 0.0
            before = (now - dt.timedelta(seconds=age)).isoformat(" ", "microseconds")[:length]
            found[key] += _rows(ctx, peewee.Table(table), column, moment, before, payload.dry_run)
    # Not configurable: the API promises to keep an Idempotency-Key exactly this long.
    before = (now - KEPT).isoformat(" ", "microseconds")
    _rows(ctx, peewee.Table("sytq_idempotency"), "idempotency_key", "created_at", before, payload.dry_run)
    for folder, age in ctx.config.files.items():
        for file in _old_files(folder, time.time() - age):  # noqa: TID251
            if not payload.dry_run:
                file.unlink(missing_ok=True)
            found["files"] += 1
    return found


def _old_tasks(ctx: Context, payload: Cleanup, now: dt.datetime) -> Iterator[peewee.Expression]:
    """One condition per retention, so that an index yields the rows by their end."""

    def ended(state: str, age: float) -> peewee.Expression:
        return (Task.state == state) & (Task.finished_at < now - dt.timedelta(seconds=age))

    own: dict[str, float] = {} if payload.older_than is not None else ctx.config.types
    for state in TERMINAL:
        age = payload.older_than
        if age is None:
            age = ctx.config.states.get(state, ctx.settings.retention)
        yield ended(state, age) & Task.type.not_in(list(own)) if own else ended(state, age)
        for name, age in own.items():
            yield ended(state, age) & (Task.type == name)


def _tasks(ctx: Context, condition: peewee.Expression, dry_run: bool) -> int:
    if dry_run:
        return ctx.read(lambda database: int(Task.select().where(condition, ~needed()).count(database)))
    deleted = 0
    last: dt.datetime | None = None
    while True:
        # Continues where the last batch ended, so that kept rows are not read again for each batch.
        later = condition & (Task.finished_at >= last) if last else condition
        query = Task.select(Task.id, Task.finished_at).where(later, ~needed()).order_by(Task.finished_at).limit(_BATCH)
        rows = ctx.read(lambda database, query=query: list(query.execute(database)))  # type: ignore[misc]
        if not rows:
            return deleted
        last, ids = rows[-1].finished_at, [row.id for row in rows]
        deleted += ctx.transaction(lambda tx, ids=ids: delete_ended(ids))  # type: ignore[misc]
        ctx.progress(deleted, text=f"{deleted} finished tasks deleted")


def _rows(ctx: Context, table: peewee.Table, column: str, moment: str, before: str, dry_run: bool) -> int:
    key, old = getattr(table.c, column), getattr(table.c, moment) < before
    if dry_run:
        return ctx.read(lambda database: int(table.select(key).where(old).count(database)))
    deleted = 0
    while True:
        query = table.select(key).where(old).limit(_BATCH)
        keys = ctx.read(lambda database, query=query: [row[0] for row in query.tuples().execute(database)])  # type: ignore[misc]
        if not keys:
            return deleted
        delete = table.delete().where(key.in_(keys), old)
        deleted += int(ctx.transaction(lambda tx, delete=delete: delete.execute(tx.database)))  # type: ignore[misc]
        ctx.progress(deleted, text=f"{deleted} rows of {table.__name__} deleted")


def _old_files(folder: Path, before: float) -> Iterator[Path]:
    for pattern in _FILES:
        for file in folder.glob(pattern):
            if file.is_file() and not file.is_symlink() and file.stat().st_mtime < before:
                yield file
