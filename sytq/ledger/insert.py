"""New tasks: their rows, and the result of each submitted task. Must not begin a transaction."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

import peewee

from sytq.ids import new_id
from sytq.ledger.database import execute, insert_ignore, is_mysql, transact
from sytq.ledger.dependencies import OnFailure
from sytq.states import CANCELLED, QUEUED, SCHEDULED


@dataclass(slots=True)  # not frozen: that triples the cost of construction
class NewTask:
    """A task to be accepted. `payload` is JSON text; `run_at` None means now; times are naive UTC.

    A task with `after` is held until those tasks, inserted before or with it, have ended (`sytq.ledger.dependencies`).
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
    metadata: str | None = None  # JSON text, like the next ones
    callback: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "cancel"
    version: int | None = None  # of the payload's schema
    retry_delay: float | None = None  # seconds, instead of the type's; in the message, not in the row
    limiters: tuple[str, ...] | None = None  # that its attempts begin with; likewise; None is not known
    made: float = field(default_factory=time.monotonic, compare=False)

    def redirected(self, existing: Mapping[str, str]) -> NewTask:
        """The same task, with dependencies that were not inserted replaced by the `existing` ones (id -> id)."""
        if not self.after:
            return self
        after = tuple(existing.get(on_id, on_id) for on_id in self.after)
        return replace(self, after=after, parent=existing.get(self.parent or "", self.parent))


@dataclass(frozen=True, slots=True)
class Accepted:
    """The submitted task has a row, new or from an earlier submission with the same id."""

    id: str


@dataclass(frozen=True, slots=True)
class Existing:
    """This unfinished task has the same unique key; nothing was inserted."""

    id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An unfinished task that the submitter may not see has the same unique key; nothing was inserted."""


#: The result for one submitted task.
Acceptance = Accepted | Existing | Refused


#: The columns that a new row takes unchanged from its task.
_COLUMNS = (
    "id", "type", "queue", "priority", "payload", "max_attempts", "scheduled_at", "owner", "parent", "host",
    "ordering_key", "unique_key", "metadata", "callback", "request_id", "traceparent", "version",
)  # fmt: skip
_VALUES = attrgetter(*("run_at" if name == "scheduled_at" else name for name in _COLUMNS))


def write_new(database: peewee.Database, tasks: Sequence[NewTask]) -> None:
    """Insert the rows, inside the caller's transaction; an existing row stays as it is."""
    if not tasks:
        return
    columns = dict(zip(_COLUMNS, zip(*map(_VALUES, tasks), strict=True), strict=True))
    columns["state"] = tuple(SCHEDULED if task.run_at or task.after else QUEUED for task in tasks)
    columns["held"] = tuple(task.on_failure if task.after else None for task in tasks)
    insert_ignore(database, "sytq_tasks", columns)


#: Characters that fill a page of InnoDB by half: the row stays in the index, whose last page has no room for it.
_HALF_A_PAGE = 7500


def try_to_insert(database: peewee.Database, *, allocate: bool) -> None:
    """Do what a submission does and leave nothing; raises what one would raise now.

    Rights, locks, the table and a read-only database tell without a row. Only a row that needs a new page finds a full
    disk or quota: an update in place, a small row or a value outside the index does not, as InnoDB has room for these.
    """

    def work() -> None:
        if not allocate:
            keep = "ON DUPLICATE KEY UPDATE id = sytq_tasks.id" if is_mysql(database) else ""
            nothing = "SELECT 'x', 'x', 'x', 'x' FROM (SELECT 1 AS one) AS source WHERE one = 0"
            database.execute_sql(f"INSERT INTO sytq_tasks (id, type, state, payload) {nothing} {keep}")
            return
        row = {"id": new_id(), "type": "readiness", "state": CANCELLED, "payload": "x" * _HALF_A_PAGE}
        insert_ignore(database, "sytq_tasks", {name: [value] for name, value in row.items()})
        # Not rolled back: MariaDB 10.11 ends itself when undoing an insert needs a page that a full disk does not have.
        # Nobody sees the row in between, and what it leaves is removed in the background.
        execute(database, "DELETE FROM sytq_tasks WHERE id = ?", row["id"])

    transact(database, work)
