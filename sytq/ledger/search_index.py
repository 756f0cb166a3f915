"""The search index as searches read it: which tasks may have a value, and how far the index goes.

`sytq_search_progress` has a row with an empty name, the head: every task created until then is in the index, and a
later one may be. It has a row for each name that is indexed: tasks from its place on have entries of the name, older
ones do not yet; without a place all have. `sytq.ledger.search_upkeep` writes both tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import peewee
from peewee import fn

from sytq.ledger.models import SearchEntry, SearchProgress, Task
from sytq.ledger.query import Term
from sytq.ledger.search_values import METADATA, OWNER, values_of

#: The name of the head's row.
HEAD = ""
#: Names in which a value without a field is looked for.
MAX_NAMES = 200


class Place(NamedTuple):
    """A place in a list of tasks, which is in descending order: a time exactly as the row has it, and an id."""

    moment: str
    id: str


#: Where the filling of a name begins: above every task.
TOP = Place("9999-12-31 23:59:59.999999", "")


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far the index goes. Without a head it was never kept."""

    head: str | None = None
    filled: Mapping[str, Place | None] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return self.head is not None and self.filled.get(_row(name), TOP) != TOP

    def place(self, name: str) -> Place | None:
        """The last task with entries of the name; None when all have them."""
        return self.filled[_row(name)]


def coverage() -> Coverage:
    """Read how far the index goes, on the caller's connection."""
    rows = {row.name: row for row in SearchProgress.select()}
    head = rows.pop(HEAD, None)
    places = {
        name: Place(row.moment, row.task_id or "") if row.moment else None
        for name, row in rows.items()
        if row.declared_at is not None  # else its entries are being dropped
    }
    return Coverage(head.moment if head else None, places)


def _row(name: str) -> str:
    """The row of `sytq_search_progress` that a name belongs to."""
    return METADATA if name.startswith(f"{METADATA}.") else name


def entries(name: str, value: str) -> peewee.ModelSelect[SearchEntry]:
    return SearchEntry.select(SearchEntry.moment.cast("CHAR"), SearchEntry.task_id).where(
        SearchEntry.name == name, SearchEntry.value == value
    )


def number(names: Collection[str], term: Term, most: int) -> int:
    """How many entries of these names may match a term; counting stops at `most`."""
    return int(_matching(names, term).limit(most).count())


def among(names: Collection[str], term: Term, most: int) -> Any:
    """The condition on `Task` that one of the entries, up to `most`, may match a term.

    The bound makes databases read the entries first: they might go through all tasks in the order of a list instead.
    """
    entries: Any = _matching(names, term).limit(most).alias("entries")
    return Task.id.in_(peewee.Select((entries,), (entries.c.task_id,)))


def _matching(names: Collection[str], term: Term) -> peewee.ModelSelect[SearchEntry]:
    values = values_of(term)
    return SearchEntry.select(SearchEntry.task_id).where(SearchEntry.name.in_(names), SearchEntry.value.in_(values))


def names() -> list[str]:
    """Return the names that there are entries of, but the owner's: up to MAX_NAMES, one step in the index each."""
    return [name for name in successive(SearchEntry.name, "", MAX_NAMES) if name != OWNER]


def successive(column: peewee.CharField, prefix: str, limit: int, *where: peewee.Expression) -> Iterator[str]:
    """The distinct values of a column of the index that begin with `prefix`, in order, one step in the index each."""
    last: str | None = None
    for _ in range(limit):
        later = column >= prefix if last is None else column > last
        row = SearchEntry.select(column.alias("found")).where(*where, later).order_by(column).limit(1).tuples().first()
        if row is None or not row[0].startswith(prefix):
            return
        last = row[0]
        yield row[0]


def has_value(term: Term) -> Any:
    """The condition on `Task` for a value without a field."""
    here = SearchEntry.task_id == Task.id, SearchEntry.value.in_(values_of(term)), SearchEntry.name != OWNER
    return Task.id.in_(ids(term)) | fn.EXISTS(SearchEntry.select(peewee.SQL("1")).where(*here))


def ids(term: Term) -> set[str]:
    """The ids that the values may be: ids are ASCII, and MySQL compares no other text with them."""
    return {value.text for value in term.values if value.text.isascii()}


def is_new() -> Any:
    """The condition on `Task` that it is not in the index."""
    # A deleted task's id may have come again.
    its = SearchEntry.task_id == Task.id, SearchEntry.moment == Task.created_at
    return ~fn.EXISTS(SearchEntry.select(peewee.SQL("1")).where(*its))
