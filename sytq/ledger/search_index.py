"""The search index as searches read it: which tasks may have a value, and how far the index goes.

`sytq_search_progress` has a row with an empty name, the head: every task created until then is in the index, and a
later one may be. It has a row for each name that is indexed: tasks from its place on have entries of the name, older
ones do not yet; without a place all have. `sytq.ledger.search_upkeep` writes both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import peewee
from peewee import fn

from sytq.ledger.models import SearchEntry, SearchProgress, Task
from sytq.ledger.query import Term
from sytq.ledger.search_values import METADATA, values_of

#: The name of the head's row.
HEAD = ""


class Place(NamedTuple):
    """A place in a list of tasks, which is in descending order: a time exactly as the row has it, and an id."""

    moment: str
    id: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far the index goes. Without a head it was never kept."""

    head: str | None = None
    filled: Mapping[str, Place | None] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return self.head is not None and _row(name) in self.filled

    def place(self, name: str) -> Place | None:
        """The last task with entries of the name; None when all have them."""
        return self.filled[_row(name)]


def coverage() -> Coverage:
    """Read how far the index goes, on the caller's connection."""
    rows = {row.name: row for row in SearchProgress.select()}
    head = rows.pop(HEAD, None)
    places = {name: Place(row.moment, row.task_id or "") if row.moment else None for name, row in rows.items()}
    return Coverage(head.moment if head else None, places)


def _row(name: str) -> str:
    """The row of `sytq_search_progress` that a name belongs to."""
    return METADATA if name.startswith(f"{METADATA}.") else name


def entries(name: str, value: str) -> peewee.ModelSelect[SearchEntry]:
    return SearchEntry.select(SearchEntry.moment.cast("CHAR"), SearchEntry.task_id).where(
        SearchEntry.name == name, SearchEntry.value == value
    )


def number(name: str, term: Term, most: int) -> int:
    """How many tasks the index has for a term; counting stops at `most`."""
    values = values_of(term)
    query = SearchEntry.select(peewee.SQL("1")).where(SearchEntry.name == name, SearchEntry.value.in_(values))
    return int(query.limit(most).count())


def is_new() -> Any:
    """The condition on `Task` that it is not in the index."""
    return ~fn.EXISTS(SearchEntry.select(peewee.SQL("1")).where(SearchEntry.task_id == Task.id))
