"""Slices of a list of tasks, latest first: each is read by a short statement, so that a search can stop between two.

A slice has a bounded number of rows, whatever of them matches. Must run inside a snapshot.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from sytq.ledger import search_index
from sytq.ledger.models import SearchEntry, Task
from sytq.ledger.query import ALONE, Filter, Term, condition
from sytq.ledger.search_index import Coverage, Place
from sytq.ledger.search_values import name_of, values_of
from sytq.states import STATES, TERMINAL

#: The condition that every row meets.
ANY: Any = peewee.Value(1) == peewee.Value(1)
#: Above so many tasks with a value, a list by the end of its tasks is read as if there were no index.
_MANY = 5000


class Order:
    """The order of a list: by end when the filter admits only ended tasks, else by creation."""

    def __init__(self, wanted: Filter) -> None:
        self.by_end = set(wanted.states) <= set(TERMINAL)
        self.column: Any = Task.finished_at if self.by_end else Task.created_at
        #: As stored: SQLite compares text, and the digits of a second differ between writers.
        self.exact: Any = self.column.cast("CHAR")
        self.fields = ("finished",) if self.by_end else ("created", "age")

    def sorted(self, query: Any) -> Any:
        return query.order_by(self.column.desc(), Task.id.desc())


@dataclass(frozen=True, slots=True)
class Slice:
    """Conditions, one for each statement, and the place where the next slice begins; None after the last slice."""

    where: Sequence[Any]
    end: Place | None


class Scan:
    """All rows that the indexes of `sytq_tasks` narrow a filter to, by state, type or queue, and time."""

    def __init__(self, wanted: Filter, order: Order, mysql: bool) -> None:
        self._order = order
        # With the end, state and type have an index; with the creation the state, the type and the queue, each alone.
        by_state = set(wanted.states) != set(STATES)
        fields = ("type",) if order.by_end else () if by_state else ("type", "queue")
        single = [term for term in wanted.terms if term.field in fields and _equals_one(term)][:1]
        moments = [term for term in wanted.terms if term.field in order.fields and not term.negated and term.values]
        self.is_restricted = bool(single) or by_state
        shared = condition(Filter(terms=(*single, *moments), now=wanted.now), mysql=mysql)
        states: Sequence[str | None] = wanted.states if by_state else (None,)
        self._each = [_both(None if state is None else Task.state == state, shared) for state in states]

    def slice(self, place: Place | None, size: int) -> Slice:
        """Return the slice of about `size` rows below a place; without a place the first slice."""
        column, after = self._order.column, below(self._order.column, Task.id, place)
        ends: list[Place] = []
        for each in self._each:
            query = self._order.sorted(Task.select(self._order.exact, Task.id).where(each, after))
            ends.extend(Place(*row) for row in query.limit(1).offset(size - 1).tuples() if row[0] is not None)
        end = max(ends, default=None)
        if end is None and self._order.by_end:  # other programs may have written ended tasks without an end
            after = below(column, Task.id, place, nulls=True)
        upto = down_to(column, Task.id, end)
        return Slice([_both(each, after, upto) for each in self._each], end)


class Entries:
    """The tasks that the search index has for a term, those that are not indexed yet, and below them all rows."""

    def __init__(self, term: Term, name: str, covered: Coverage, order: Order, scan: Scan) -> None:
        self._term, self._name = term, name
        self._head, self._filled = covered.head, covered.place(name)
        self._order, self._scan = order, scan

    def slice(self, place: Place | None, size: int) -> Slice:
        if self._order.by_end:
            return self._by_end(place, size)
        if self._filled is not None and place is not None and place <= self._filled:
            return self._scan.slice(place, size)
        size = min(size, _MANY)
        found = self._found(place, size)
        end = found[-1] if len(found) == size else self._filled
        return Slice([Task.id.in_({row.id for row in found})], end)

    def _by_end(self, place: Place | None, size: int) -> Slice:
        """All that the index has: its order is another one."""
        new = [row[1] for row in self._new(None).limit(_MANY + 1).tuples()]
        if len(new) > _MANY:
            return self._scan.slice(place, size)
        rest = below(self._order.column, Task.id, place, nulls=True)
        indexed = search_index.among([self._name], self._term, _MANY + 1)
        if not new:
            return Slice([_both(indexed, rest)], None)
        # A deleted task's id may have come again.
        return Slice([_both(indexed, Task.id.not_in(new), rest), _both(Task.id.in_(new), rest)], None)

    def _found(self, place: Place | None, size: int) -> list[Place]:
        """The first tasks below a place that may match, without those that were not filled."""
        entry = SearchEntry.moment, SearchEntry.task_id
        queries: list[Any] = []
        for value in values_of(self._term):
            query = search_index.entries(self._name, value).where(below(*entry, place), down_to(*entry, self._filled))
            queries.append(query.order_by(SearchEntry.moment.desc(), SearchEntry.task_id.desc()))
        if place is None or self._head is None or place.moment > self._head:
            queries.append(self._new(place))
        found = {Place(*row) for query in queries for row in query.limit(size).tuples()}
        return sorted(found, reverse=True)[:size]

    def _new(self, place: Place | None) -> Any:
        """Tasks below a place that are not in the index yet, the latest first."""
        created = Task.created_at
        query = Task.select(created.cast("CHAR"), Task.id).where(
            created > bound(self._head),
            search_index.is_new(),
            below(created, Task.id, place),
            down_to(created, Task.id, self._filled),
        )
        return query.order_by(created.desc(), Task.id.desc())


class Known:
    """The tasks that conditions select, each task one of them: few, and in one slice."""

    def __init__(self, conditions: Sequence[Any], order: Order) -> None:
        self._conditions, self._order = conditions, order

    def slice(self, place: Place | None, size: int) -> Slice:
        rest = below(self._order.column, Task.id, place, nulls=self._order.by_end)
        return Slice([_both(each, rest) for each in self._conditions], None)


Source = Scan | Entries | Known


def source(wanted: Filter, order: Order, mysql: bool) -> Source:
    """Return what gives the slices of a filter (with its `now`) by the fewest rows."""
    scan = Scan(wanted, order, mysql)
    for term in wanted.terms:
        if term.field == "id" and not term.negated and term.values:
            return Known([Task.id.in_({value.text for value in term.values})], order)
        if term.field == ALONE and search_index.number(names := search_index.names(), term, _MANY + 1) <= _MANY:
            its = Task.id.in_(search_index.ids(term))
            return Known([its, search_index.among(names, term, _MANY + 1) & ~its], order)
    indexed = [(term, name) for term in wanted.terms if (name := name_of(term)) is not None]
    if not indexed:
        return scan
    covered = search_index.coverage()
    found = [(term, name) for term, name in indexed if covered.has(name)]
    if not found:
        return scan
    # Whether the entries are in the order of the list, and fewer than the rows.
    in_order = not order.by_end and not scan.is_restricted
    if len(found) == 1 and in_order:
        return Entries(*found[0], covered, order, scan)
    numbers = [search_index.number([name], term, _MANY + 1) for term, name in found]
    number = min(numbers)
    term, name = found[numbers.index(number)]
    if (number > _MANY and not in_order) or (order.by_end and covered.place(name) is not None):
        return scan
    return Entries(term, name, covered, order, scan)


def _equals_one(term: Term) -> bool:
    return term.operator == "=" and len(term.values) == 1 and not term.negated


def _both(*conditions: Any) -> Any:
    """All conditions that there are in one."""
    return functools.reduce(operator.and_, [each for each in conditions if each is not None] or [ANY])


def below(column: Any, ident: Any, place: Place | None, *, nulls: bool = False) -> Any:
    """What is below a place; with `nulls` also what has no time, which comes last."""
    if place is None:
        return ANY
    if not place.moment:
        return column.is_null() & (ident < place.id)
    last = bound(place.moment)
    lower = (column <= last) & ((column < last) | (ident < place.id))
    return lower | column.is_null() if nulls else lower


def down_to(column: Any, ident: Any, end: Place | None) -> Any:
    """What is not below a place."""
    if end is None:
        return ANY
    last = bound(end.moment)
    return (column >= last) & ((column > last) | (ident >= end.id))


def bound(value: Any) -> Any:
    return peewee.Value(value, converter=False)
