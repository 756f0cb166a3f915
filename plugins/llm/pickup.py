"""The pick-up: submits pending rows of callers' tables without an API call; unique keys prevent duplicates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import peewee
import structlog

from sytq.ledger.database import read, transact
from sytq.ledger.ledger import NewTask
from sytq.ledger.models import UniqueKey

from .config import LlmSettings
from .row import explain

if TYPE_CHECKING:
    from sytq.runtime import Runtime

log = structlog.get_logger(__name__)

_TYPE = "llm"
_LOOK = 0.5
_PAGE = 500
#: Seconds per pass over a table; the next pass continues where it stopped.
_PASS = 1.0
_COMPLAIN = 60.0  # seconds between two warnings about the same table
#: A row whose tasks end without writing to it stays pending. It is submitted this often at once, then with growing
#: delays.
_AT_ONCE = 3
_LATER, _LATEST = 10.0, 600.0


class Pacing:
    """Limits how often the same row is submitted."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int], tuple[int, float]] = {}

    def allows(self, table: str, id: int, now: float) -> bool:
        """Whether the row may be submitted now; counts it if so."""
        times, last = self._taken.get((table, id), (0, now))
        if now - last > 2 * _LATEST:
            times = 0
        elif times >= _AT_ONCE and now - last < min(_LATER * 2 ** (times - _AT_ONCE), _LATEST):
            return False
        self._taken[table, id] = times + 1, now
        return True

    def forget(self, now: float) -> None:
        """Drop outdated entries."""
        if len(self._taken) > 20 * _PAGE:
            self._taken = {row: taken for row, taken in self._taken.items() if now - taken[1] <= 2 * _LATEST}


def pick_up(runtime: Runtime) -> Callable[[], float] | None:
    """The loop over the watched tables; None without any."""
    settings = runtime.settings.of(LlmSettings).llm
    watched = [name for name, table in settings.tables.items() if table.pickup]
    if not watched or _TYPE not in runtime.registry:
        return None
    return PickUp(runtime, watched, settings.status_labels.pending).work


def _is_valid(id: object) -> bool:
    """Whether a task can name the row: its table may have unsigned ids, or texts."""
    return isinstance(id, int | Decimal) and -(2**63) <= id < 2**63 and id != 0


class PickUp:
    def __init__(self, runtime: Runtime, tables: list[str], pending: str) -> None:
        self._declared = runtime.registry.get(_TYPE)
        self._ledger = runtime.ledger
        self._submitter = runtime.submitter
        self._pending = pending
        self._cursors: dict[str, Any] = dict.fromkeys(tables)
        self._complained: dict[str, float] = {}
        self._pacing = Pacing()

    def work(self) -> float:
        for table in self._cursors:
            try:
                self._pass(table)
            except peewee.PeeweeException as error:
                # A missing table or column is for its owner to fix; other tables continue.
                self._complain(table, explain(error, table, {}) or type(error).__name__)
        return _LOOK

    def _pass(self, table: str) -> None:
        """Submit pending rows, page by page, from where the last pass ended."""
        end = time.monotonic() + _PASS
        while time.monotonic() < end:
            ids = self._page(table, self._cursors[table])
            self._cursors[table] = ids[-1] if len(ids) == _PAGE else None
            self._submit(table, [int(id) for id in ids if _is_valid(id)])
            if strange := [id for id in ids if not _is_valid(id)]:
                self._complain(table, f"{len(strange)} ids are not whole numbers of 64 bits, not 0")
            if len(ids) < _PAGE:
                return

    def _page(self, table: str, after: Any) -> list[Any]:
        column, query = self._pending_of(table)
        if after is not None:
            query = query.where(column > after)
        query = query.order_by(column).limit(_PAGE)
        return read(self._ledger.database, lambda: [id for (id,) in query.tuples()])

    def _pending_of(self, table: str) -> tuple[Any, Any]:
        """The column `id`, and the query for the ids of pending rows."""
        rows = peewee.Table(table).bind(self._ledger.database)
        return rows.c.id, rows.select(rows.c.id).where(rows.c.status == self._pending)

    def _submit(self, table: str, ids: list[int]) -> None:
        keys = {self._declared.unique_key(self._declared.parse({"table_name": table, "id": id})): id for id in ids}
        query = UniqueKey.select(UniqueKey.unique_key).where(UniqueKey.unique_key.in_(list(keys)))
        known = set(read(self._ledger.database, lambda: [row.unique_key for row in query])) if keys else set()
        now = time.monotonic()
        self._pacing.forget(now)
        new = [id for key, id in keys.items() if key not in known and self._pacing.allows(table, id, now)]
        tasks = {id: self._submitter.prepare(_TYPE, {"table_name": table, "id": id}) for id in new}
        if tasks:
            accepted = transact(self._ledger.database, lambda: self._accept(table, tasks))
            self._submitter.dispatch(accepted)
            log.info("rows picked up", table=table, tasks=len(accepted))

    def _accept(self, table: str, tasks: Mapping[int, NewTask]) -> list[NewTask]:
        """Inside the caller's transaction: insert the tasks whose rows are still pending now that their keys are
        reserved. A row read as pending may have had a task meanwhile; a second one would be paid for again."""
        existing = self._ledger.reserve({task.id: task.unique_key for task in tasks.values() if task.unique_key})
        column, query = self._pending_of(table)
        pending = {int(id) for (id,) in query.where(column.in_(list(tasks))).tuples()}
        late = [task.id for id, task in tasks.items() if id not in pending]
        UniqueKey.delete().where(UniqueKey.task_id.in_(late)).execute()
        accepted = [task for id, task in tasks.items() if id in pending and task.id not in existing]
        self._ledger.insert(accepted)
        return accepted

    def _complain(self, table: str, error: str) -> None:
        now = time.monotonic()
        if now - self._complained.get(table, -_COMPLAIN) >= _COMPLAIN:
            self._complained[table] = now
            log.warning("pending rows of a table cannot be looked for", table=table, error=error)
