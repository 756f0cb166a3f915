"""Searches of the ledger: matching tasks, page by page, and their number. A row is at most a second behind Redis.

A search reads slices of the list, latest first, until it has what it needs or its time is over. There may be a
statement for each state and tasks move between states, so all statements of a search use one snapshot.
Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import math
import operator
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import peewee

from sytq.errors import InvalidInput
from sytq.ledger import search_index
from sytq.ledger.database import is_mysql, read, read_snapshot
from sytq.ledger.models import Task
from sytq.ledger.query import ALONE, Filter, condition
from sytq.ledger.search_index import Place
from sytq.ledger.slices import ANY, Entries, Order, Slice, source
from sytq.states import STATES, UNFINISHED

#: Counting stops here, to read no more than this many entries of an index.
COUNT_MAX = 10_000
#: Seconds after which a search answers with what it has.
BUDGET = 0.5
#: Rows of the first slice and of any slice; in between as many as take about so many seconds.
_FIRST, _LARGEST, _PACE = 200, 50_000, 0.1
#: Lists leave out payloads and results, which may have a megabyte each.
_COLUMNS = [column for name, column in Task._meta.fields.items() if name not in ("payload", "result", "callback")]
#: A time as another program wrote it: SQLite keeps any text, and for MySQL an invalid time would be an error.
_PLACE = re.compile(r"([cf])([^/\x00-\x1f]{0,40})/([!-~]{1,64})")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of a list, and the cursor of the next page (None on the last page).

    A page that has fewer tasks than asked for, and a next page, ran out of time: all tasks down to `searched_to` (naive
    UTC) were looked at.
    """

    tasks: list[Task]
    next: str | None
    searched_to: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """A number of tasks; at least as many where it is not `exact`."""

    number: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks by state, each up to COUNT_MAX + 1, and when the oldest task of each unfinished state was created."""

    by_type: dict[str, dict[str, int]]
    oldest: dict[str, dt.datetime] = field(default_factory=dict)


class Search:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._mysql = is_mysql(database)

    def page(self, wanted: Filter, *, limit: int, after: str | None = None, seconds: float = BUDGET) -> TaskPage:
        """Return the latest matching tasks: by end when the filter admits only ended tasks, else by creation.

        Without a whole page after `seconds` the answer is what was found until then. Raises InvalidInput for an invalid
        cursor.
        """
        order = Order(wanted)
        begin = _place(after, order.by_end, self._mysql) if after is not None else None

        def work() -> TaskPage:
            found: list[Task] = []
            end: Place | None = None
            for part, holds in self._slices(wanted, order, begin, seconds, limit + 1):
                end = part.end
                rows: list[Task] = []
                for where in part.where:
                    query = Task.select(*_COLUMNS, order.exact.alias("moment")).where(where, holds)
                    rows.extend(order.sorted(query).limit(limit + 1 - len(found)))
                found += sorted(rows, key=_place_of, reverse=True)
                if len(found) > limit:
                    return TaskPage(found[:limit], _cursor(_place_of(found[limit - 1]), order.by_end))
            if end is None:
                return TaskPage(found, None)
            searched_to = _time(end.moment) if len(found) < limit else None
            return TaskPage(found, _cursor(end, order.by_end), searched_to)

        return read_snapshot(self._database, work)

    def pages(self, wanted: Filter, size: int = 500) -> Iterator[list[Task]]:
        """Yield all matching tasks in pages, latest first; a task that changes meanwhile appears once."""
        after: str | None = None
        while True:
            page = self.page(wanted, limit=size, after=after)
            if page.tasks:
                yield page.tasks
            if page.next is None:
                return
            after = page.next

    def count(self, wanted: Filter, most: float = math.inf, *, seconds: float = BUDGET) -> Count:
        """Count the matching tasks. Counting stops above `most`, and after `seconds`."""

        def work() -> Count:
            number, end = 0, None
            for part, holds in self._slices(wanted, Order(wanted), None, seconds):
                end = part.end
                number += sum(Task.select(Task.id).where(where, holds).count() for where in part.where)
                if number > most:
                    return Count(int(most), exact=False)
            return Count(number, exact=end is None)

        return read_snapshot(self._database, work)

    def grouped(
        self, wanted: Filter, *key: Any, most: int, values: Sequence[Any] = (), seconds: float = BUDGET
    ) -> tuple[list[tuple[Any, ...]], bool]:
        """Return groups of the latest matching tasks, and whether these are all: the key, the number of tasks, and
        aggregates. Tasks of one key may be in several groups. Reading stops with `most` tasks, and after `seconds`.
        """

        def work() -> tuple[list[tuple[Any, ...]], bool]:
            groups: list[tuple[Any, ...]] = []
            end: Place | None = None
            for part, holds in self._slices(wanted, Order(wanted), None, seconds):
                end = part.end
                for where in part.where:
                    query: Any = Task.select(*key, peewee.fn.COUNT(Task.id), *values).where(where, holds).group_by(*key)
                    groups.extend(query.tuples())
                if sum(group[len(key)] for group in groups) >= most:
                    break
            return groups, end is None

        return read_snapshot(self._database, work)

    def matching(self, wanted: Filter, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that match."""

        def work() -> list[str]:
            query = Task.select(Task.id).where(Task.id.in_(list(ids)), self._condition(self._timed(wanted)))
            return [task.id for task in query]

        return read_snapshot(self._database, work) if ids else []

    def now(self) -> dt.datetime:
        """Return the database's time (naive UTC), by which `created_at` is set."""
        return read(self._database, self._now)

    def counts(self, types: Iterable[str]) -> Counts:
        """Count the tasks of these types by state, with seven small, bounded statements a type."""

        def number(type_name: str, state: str) -> int:
            query = Task.select(Task.id).where(Task.type == type_name, Task.state == state)
            return int(query.limit(COUNT_MAX + 1).count())

        def first(state: str) -> dt.datetime | None:
            query = Task.select(Task.created_at).where(Task.state == state).order_by(Task.created_at).limit(1)
            return next((row.created_at for row in query), None)

        def work() -> Counts:
            by_type = {name: {state: number(name, state) for state in STATES} for name in types}
            return Counts(by_type, {state: at for state in UNFINISHED if (at := first(state)) is not None})

        return read_snapshot(self._database, work)

    def _slices(
        self, wanted: Filter, order: Order, place: Place | None, seconds: float, needed: int = _FIRST
    ) -> Iterator[tuple[Slice, Any]]:
        """Yield slices until the last one or until the time is over, each with the condition on its rows."""
        if not wanted.states:
            return
        wanted = self._timed(wanted)
        holds, slices = self._condition(wanted), source(wanted, order, self._mysql)
        # Of a term that is alone the index gives the rows that are needed.
        size = min(_FIRST, needed) if isinstance(slices, Entries) and len(wanted.terms) == 1 else _FIRST
        deadline = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            part = slices.slice(place, size)
            yield part, holds
            took = time.monotonic() - began
            # The next slice takes as long, if it is as large.
            if part.end is None or time.monotonic() + took > deadline:
                return
            place, size = part.end, _next_size(size, took)

    def _timed(self, wanted: Filter) -> Filter:
        return wanted.at(self._now()) if wanted.needs_now else wanted

    def _condition(self, wanted: Filter) -> Any:
        fielded = replace(wanted, terms=tuple(term for term in wanted.terms if term.field != ALONE))
        holds = condition(fielded, mysql=self._mysql)
        alone = [search_index.has_value(term) for term in wanted.terms if term.field == ALONE]
        return functools.reduce(operator.and_, alone, ANY if holds is None else holds)

    def _now(self) -> dt.datetime:
        clock = "UTC_TIMESTAMP(6)" if self._mysql else "strftime('%Y-%m-%d %H:%M:%f', 'now')"
        (now,) = self._database.execute_sql(f"SELECT {clock}").fetchone()
        return now if isinstance(now, dt.datetime) else dt.datetime.fromisoformat(now)


def _time(moment: str) -> dt.datetime | None:
    """A time as the row has it, in UTC; None for what is none."""
    try:
        time = dt.datetime.fromisoformat(moment)
    except ValueError:
        return None
    return time.astimezone(dt.UTC).replace(tzinfo=None) if time.tzinfo else time


def _next_size(size: int, took: float) -> int:
    return max(10, min(_LARGEST, int(size * max(0.25, min(4.0, _PACE / max(took, 1e-6))))))


def _place_of(task: Task) -> Place:
    return Place(vars(task)["moment"] or "", task.id)


def _cursor(place: Place, ended: bool) -> str:
    text = f"{'f' if ended else 'c'}{place.moment}/{place.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(cursor: str, ended: bool, mysql: bool) -> Place:
    """The place at which the previous page ended. Raises InvalidInput."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    match = _PLACE.fullmatch(text)
    if match is not None and match[1] == ("f" if ended else "c"):
        moment = match[2]
        if not moment or (_time(moment) if _TIME.fullmatch(moment) else not mysql):
            return Place(moment, match[3])
    raise InvalidInput("after", f"'{cursor[:64]}' is no cursor of this list; valid: the `next` of a page before")
