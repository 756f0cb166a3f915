"""A task that is to be accepted, and its row.

Owns which columns a new row has. Must not begin a transaction, nor know who may submit what.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import peewee

from sytq.db import execute_many, is_mysql, marks
from sytq.states import QUEUED, SCHEDULED
from sytq.workflow import OnFailure


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be accepted. `payload` is JSON text; `run_at` None means now; times are naive UTC.

    One with `after` is held until those tasks, which are there or inserted with it, have ended (see `sytq.workflow`).
    """

    id: str
    type: str
    queue: str
    priority: str
    payload: str
    max_attempts: int | None = None
    run_at: dt.datetime | None = None
    owner: str | None = None
    parent: str | None = None
    unique_key: str | None = None
    host: str | None = None
    ordering_key: str | None = None
    metadata: str | None = None  # JSON text, as are the next
    callback: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "cancel"
    version: int | None = None  # of the payload's form
    retry_delay: float | None = None  # seconds, in place of the type's; its message has it, the row has not
    made: float = field(default_factory=time.monotonic, compare=False)

    def behind(self, standing: Mapping[str, str]) -> NewTask:
        """The same task, which comes after those that stand for the ones that it was to come after."""
        if not self.after:
            return self
        after = tuple(standing.get(on_id, on_id) for on_id in self.after)
        return replace(self, after=after, parent=standing.get(self.parent or "", self.parent))


def write_new(database: peewee.Database, tasks: Sequence[NewTask]) -> None:
    """Insert the rows, inside the caller's transaction; one that is there already stays as it is."""
    columns = (
        "id, type, queue, priority, state, payload, max_attempts, scheduled_at, owner, parent, host, ordering_key,"
        " unique_key, metadata, callback, request_id, traceparent, held, version"
    )
    rows = [
        (
            task.id,
            task.type,
            task.queue,
            task.priority,
            SCHEDULED if task.run_at or task.after else QUEUED,
            task.payload,
            task.max_attempts,
            task.run_at,
            task.owner,
            task.parent,
            task.host,
            task.ordering_key,
            task.unique_key,
            task.metadata,
            task.callback,
            task.request_id,
            task.traceparent,
            task.on_failure if task.after else None,
            task.version,
        )
        for task in tasks
    ]
    # Plain placeholders only: PyMySQL sends anything else row by row.
    tail = "ON DUPLICATE KEY UPDATE id = id" if is_mysql(database) else "ON CONFLICT (id) DO NOTHING"
    execute_many(database, f"INSERT INTO sytq_tasks ({columns}) VALUES ({marks(database, 19)}) {tail}", rows)
