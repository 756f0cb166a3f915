"""What completes a query: the names that the search index has, and values of one of them. Bounded in what it reads."""

from __future__ import annotations

import peewee
from peewee import fn

from sytq.ledger.database import read_snapshot
from sytq.ledger.models import SearchEntry, Task
from sytq.ledger.search_index import MAX_NAMES, coverage, successive
from sytq.ledger.search_values import MAX_VALUE, METADATA, OWNER, kept

#: The latest tasks whose values are offered first, by how frequent they are.
_RECENT = 2000


class Completion:
    """Every method raises DatabaseUnavailable. With an `owner` only that owner's tasks are read."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def names(self, owner: str | None = None) -> list[str]:
        """Return the declared fields (`payload.order_id`) and the keys of metadata (`metadata.customer`) in use."""

        def work() -> list[str]:
            declared = [name for name in coverage().filled if name not in (OWNER, METADATA)]
            if owner is None:
                return sorted([*declared, *successive(SearchEntry.name, f"{METADATA}.", MAX_NAMES)])
            used = SearchEntry.select(SearchEntry.name).where(SearchEntry.task_id.in_(_recent(owner))).distinct()
            return sorted({*declared, *(row.name for row in used if row.name.startswith(f"{METADATA}."))})

        return read_snapshot(self._database, work)

    def values(self, name: str, prefix: str = "", *, owner: str | None = None, limit: int = 20) -> list[str]:
        """Return values of an indexed name that begin with `prefix`: of the latest tasks the most frequent first, then,
        without an owner, others in alphabetical order. Long values, which the index cuts, are left out."""
        if name == OWNER and owner is not None:
            return [owner] if owner.startswith(prefix) else []

        def work() -> list[str]:
            here = SearchEntry.name == name, SearchEntry.task_id.in_(_recent(owner))
            query = SearchEntry.select(SearchEntry.value).where(*here, _begins(SearchEntry.value, prefix))
            query = query.group_by(SearchEntry.value).order_by(fn.COUNT(1).desc(), SearchEntry.value).limit(limit)
            found = dict.fromkeys(row.value for row in query)
            if owner is None and len(found) < limit:
                found |= dict.fromkeys(successive(SearchEntry.value, prefix, limit, SearchEntry.name == name))
            return [value for value in found if value and len(value) <= MAX_VALUE][:limit]

        return read_snapshot(self._database, work)

    def recent(self, field: str, *, owner: str | None = None, limit: int = 200) -> list[str]:
        """Return the values of a column, such as `host`, of the latest tasks, the most frequent first."""
        column = getattr(Task, field)

        def work() -> list[str]:
            query = Task.select(column).where(Task.id.in_(_recent(owner)), column.is_null(False))
            query = query.group_by(column).order_by(fn.COUNT(1).desc(), column).limit(limit)
            return [getattr(row, field) for row in query]

        return read_snapshot(self._database, work)


def _recent(owner: str | None) -> list[str]:
    """The ids of the latest tasks."""
    if owner is None:
        latest = Task.select(Task.id).order_by(Task.created_at.desc(), Task.id.desc()).limit(_RECENT)
        return [row.id for row in latest]
    own = SearchEntry.name == OWNER, SearchEntry.value == kept(owner)
    query = SearchEntry.select(SearchEntry.task_id).where(*own).order_by(SearchEntry.moment.desc()).limit(_RECENT)
    # The index may have the task of another owner under this value.
    there = Task.select(Task.id).where(Task.id.in_([row.task_id for row in query]), Task.owner == owner)
    return [row.id for row in there]


def _begins(column: peewee.CharField, prefix: str) -> peewee.Expression:
    return (column >= prefix) & (column < f"{prefix}\U0010ffff")
