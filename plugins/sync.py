"""Task type `sync`: finds callers' rows whose task is missing or ended, and repairs or submits them.

Rows with an unfinished task, and rows that change meanwhile, stay untouched. Times in contract A's tables are UTC, as
sytq's sessions are.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import peewee
from pydantic import BaseModel, ConfigDict, Field

from sytq import Context, Fail, Transaction, task
from sytq.config import Section
from sytq.config.values import Identifier
from sytq.durations import Duration
from sytq.ledger.database import is_mysql
from sytq.ledger.models import Step, Task
from sytq.ledger.values import utcnow
from sytq.states import SUCCEEDED, TERMINAL, UNFINISHED

from .llm.config import LlmSettings
from .llm.row import Rows, completed, failed

_PAGE = 200
_SHOWN = 20  # ids of each kind in the result


class Sync(BaseModel):
    """Which tables to check (default: all of `llm.tables`), and whether to only report."""

    model_config = ConfigDict(extra="forbid")

    tables: list[Identifier] = Field(default=[], max_length=100)
    dry_run: bool = False


class Config(Section):
    """`types.sync`."""

    stuck_after: Duration = 600.0
    pending_after: Duration = 600.0
    resubmit: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """An unfinished row, and the last ended task about it, if any."""

    id: int
    status: str
    updated_at: dt.datetime | None
    ended: Task | None = None


@task("sync", payload=Sync, config=Config, admin_only=True)
def sync(ctx: Context, payload: Sync) -> dict[str, Any]:
    """Find rows that say pending or processing and have no task, and repair or submit them."""
    allowed = ctx.settings.of(LlmSettings).llm.tables
    for name in payload.tables:
        if name not in allowed:
            raise Fail(f"tables: '{name}' is not one of llm.tables; valid: {', '.join(allowed)}")
    tables = {name: _table(ctx, name, payload.dry_run) for name in payload.tables or allowed}
    return {"dry_run": payload.dry_run, "tables": tables}


def _table(ctx: Context, name: str, dry_run: bool) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    ids: dict[str, list[int]] = {}
    try:
        for row in _left_behind(ctx, name):
            done = _mend(ctx, name, row, dry_run)
            counts[done] += 1
            ids.setdefault(done, []).append(row.id)
            ctx.progress(counts.total(), text=f"{name}: {counts.total()} rows left behind")
    except (peewee.ProgrammingError, peewee.OperationalError):
        if ctx.read(lambda database: database.table_exists(name)):
            raise
        return {"error": "there is no such table"}
    return dict(counts) | {"rows": {done: found[:_SHOWN] for done, found in ids.items()}}


def _left_behind(ctx: Context, name: str) -> Iterator[Row]:
    """Rows, by id, that have been pending or processing for long and have no unfinished task."""
    labels, now = ctx.settings.of(LlmSettings).llm.status_labels, utcnow()
    table = peewee.Table(name)
    old = [
        (table.c.status == label) & (table.c.updated_at.is_null() | (table.c.updated_at < since))
        for label, age in ((labels.processing, ctx.config.stuck_after), (labels.pending, ctx.config.pending_after))
        for since in [(now - dt.timedelta(seconds=age)).isoformat(" ", "seconds")]
    ]
    last: int | None = None
    while True:
        query = table.select(table.c.id, table.c.status, table.c.updated_at).where(old[0] | old[1])
        query = query.where(table.c.id > last) if last is not None else query
        query = query.order_by(table.c.id).limit(_PAGE).tuples()
        rows = ctx.read(lambda database, query=query: list(query.execute(database)))  # type: ignore[misc]
        if not rows:
            return
        last = rows[-1][0]
        found = _tasks(ctx, name, [id for id, *_ in rows])
        for id, status, updated_at in rows:
            tasks = found.get(id, [])
            if not any(task.state in UNFINISHED for task in tasks):
                # MySQL returns a time, SQLite the stored text.
                changed = dt.datetime.fromisoformat(updated_at) if isinstance(updated_at, str) else updated_at
                # A task that ended before the row's last change says nothing about the row now.
                since = [task for task in tasks if changed is None or (task.finished_at or changed) >= changed]
                yield Row(id, status, changed, max(since, key=lambda task: task.created_at, default=None))


def _tasks(ctx: Context, name: str, ids: list[int]) -> dict[int, list[Task]]:
    """The tasks about each row. Payloads may come from any program, so they are read as JSON."""

    def work(database: peewee.Database) -> dict[int, list[Task]]:
        extract = peewee.fn.JSON_EXTRACT
        number: Any = extract(Task.payload, "$.id")
        named: Any = extract(Task.payload, "$.table_name")
        if is_mysql(database):
            number, named = number.cast("SIGNED"), peewee.fn.JSON_UNQUOTE(named)
        # CASE, as the database chooses the order of AND.
        valid = peewee.fn.JSON_VALID(Task.payload) == 1
        right = peewee.Case(None, [(valid, (named == name) & number.in_(ids))], False)
        found: dict[int, list[Task]] = {}
        for one in Task.select().where(Task.type == "llm", right).execute(database):
            found.setdefault(int(json.loads(one.payload)["id"]), []).append(one)
        ended = {one.id: one for tasks in found.values() for one in tasks if one.state in TERMINAL}
        query = Task.select().where(Task.parent.in_(list(ended)), Task.type == "llm.dead", Task.state.in_(UNFINISHED))
        for obituary in query.execute(database) if ended else ():  # the task is about to write the row
            found[int(json.loads(ended[obituary.parent].payload)["id"])].append(obituary)
        return found

    return ctx.read(work)


def _mend(ctx: Context, name: str, row: Row, dry_run: bool) -> str:
    """Repair one row and return how: completed, failed, resubmitted, or left."""
    labels = ctx.settings.of(LlmSettings).llm.status_labels
    values: dict[str, Any]
    answer = _answer(ctx, row.ended.id) if row.ended is not None and row.ended.state == SUCCEEDED else None
    if answer is not None:
        done, values = "completed", completed(labels, *answer)
    elif row.ended is not None and row.ended.state != SUCCEEDED:
        done, values = "failed", failed(labels, row.ended.error)
    elif ctx.config.resubmit:
        done, values = "resubmitted", {"status": labels.pending, "progress_info": "submitted again: it had no task"}
    else:
        return "left"
    if dry_run:
        return done

    def write(tx: Transaction) -> bool:
        seen = row.updated_at.isoformat(" ") if row.updated_at is not None else None
        as_seen = {"status": row.status, "updated_at": seen}
        changed = Rows(tx.database, name).update(row.id, as_seen, **values)
        if changed and done == "resubmitted":
            tx.enqueue("llm", {"table_name": name, "id": row.id}, key=f"{name}:{row.id}")
        return changed

    try:
        return done if ctx.transaction(write) else "changed meanwhile"
    except peewee.DataError:  # such as a report that is too long for its column
        ctx.log.error("row cannot be written", table=name, row=row.id)
        return "refused by the table"


def _answer(ctx: Context, task_id: str) -> tuple[str, int] | None:
    """The last node's answer of a finished task, and the number of nodes, from their checkpoints."""
    nodes = Step.select().where(Step.task_id == task_id, Step.state == "done", Step.name.startswith("node-"))
    steps = ctx.read(lambda database: list(nodes.execute(database)))
    if not steps:
        return None
    last = max(steps, key=lambda step: int(step.name.removeprefix("node-")))
    content = json.loads(last.value or "{}").get("content")
    return (content, len(steps)) if isinstance(content, str) else None
