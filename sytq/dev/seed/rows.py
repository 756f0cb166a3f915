"""The rows of made-up tasks, and their mark: written a batch at a time, found and deleted page by page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import peewee
from sytq_plugins.llm.spend import SpendRow
from sytq_plugins.webhook.hosts import FailingHost

from sytq.ledger.database import insert_ignore, read, transact
from sytq.ledger.deletion import delete_ended
from sytq.ledger.models import Attempt, Step, Task, Wait
from sytq.tasktypes.payload import encode

#: The first entry of a made-up task's metadata. Nothing else marks it, so that types, owners and hosts can vary.
MARK = {"made_up": "sytq seed"}
#: How their column `metadata` begins.
_BEGINS = encode(MARK).removesuffix("}")
_MODELS: tuple[type[peewee.Model], ...] = (Task, Attempt, Step, Wait, SpendRow, FailingHost)
_COLUMNS = {model: [field.name for field in model._meta.sorted_fields] for model in _MODELS}
_BATCH = 1000  # tasks in a transaction: few, so that it holds up no submission
_PAGE = 2000


class Rows:
    """Rows on their way into the database; `wrote` hears of the tasks in each transaction."""

    def __init__(self, database: peewee.Database, wrote: Callable[[int], None] | None = None) -> None:
        self._database = database
        self._wrote = wrote
        self._pending: dict[type[peewee.Model], list[dict[str, Any]]] = defaultdict(list)

    def add(self, model: type[peewee.Model], /, **values: Any) -> None:
        self._pending[model].append(values)

    def flush(self, at_least: int = _BATCH) -> None:
        """Write what is pending, if it is so many tasks."""
        if len(self._pending[Task]) < at_least:
            return
        pending, self._pending = self._pending, defaultdict(list)
        transact(self._database, lambda: self._insert(pending))
        if self._wrote:
            self._wrote(len(pending[Task]))

    def _insert(self, pending: dict[type[peewee.Model], list[dict[str, Any]]]) -> None:
        for model, rows in pending.items():
            if rows:
                columns = {name: [row.get(name) for row in rows] for name in _COLUMNS[model]}
                insert_ignore(self._database, model._meta.table_name, columns)


def others(database: peewee.Database) -> bool:
    """Whether the ledger has a task that is not made up."""
    query = Task.select(Task.id).where(Task.metadata.is_null() | ~_is_marked())
    # Newest first: such a task is most likely among the last.
    query = query.order_by(Task.created_at.desc(), Task.id.desc()).limit(1)
    return bool(read(database, lambda: list(query.tuples())))


def marked(database: peewee.Database) -> Iterator[list[tuple[str, str]]]:
    """Pages of made-up tasks: id and state."""
    after = ""
    while True:
        query = Task.select(Task.id, Task.state, _is_marked()).where(Task.id > after).order_by(Task.id).limit(_PAGE)
        page = read(database, lambda query=query: list(query.tuples()))  # type: ignore[misc]
        if not page:
            return
        after = page[-1][0]
        yield [(task_id, state) for task_id, state, is_marked in page if is_marked]


def delete(database: peewee.Database, ids: list[str]) -> int:
    """Delete ended tasks with all that is kept of them, also in the plugins' tables."""

    def work(some: list[str]) -> int:
        gone = delete_ended(some)
        left = Task.select(Task.id).where(Task.id == SpendRow.task_id)
        SpendRow.delete().where(SpendRow.task_id.in_(some), ~peewee.fn.EXISTS(left)).execute()
        return gone

    return sum(transact(database, partial(work, ids[start : start + 500])) for start in range(0, len(ids), 500))


def forget_hosts(database: peewee.Database) -> None:
    """Delete the record of failing hosts that no installation can reach."""
    unreachable = FailingHost.delete().where(FailingHost.host.contains(".example:"))
    transact(database, unreachable.execute)


def _is_marked() -> peewee.Expression:
    return peewee.fn.SUBSTR(Task.metadata, 1, len(_BEGINS)) == _BEGINS
