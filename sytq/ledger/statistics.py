"""Statistics of a period by task type. Tasks are read page by page; only three durations of each stay in memory."""

from __future__ import annotations

import datetime as dt
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import peewee

from sytq.ledger.database import read
from sytq.ledger.models import Task
from sytq.states import TERMINAL

_PAGE = 5000


class Ended(NamedTuple):
    """The end of a task. A task that was cancelled before its start has neither `waited` nor `ran`."""

    type: str
    state: str
    finished_at: dt.datetime
    retries: int
    waited: float | None
    ran: float | None
    took: float


@dataclass(slots=True)
class Statistics:
    """Statistics of one type or all. In seconds: `waited` from submission (or the scheduled time) to the last start,
    `ran` from there to the end, `took` both."""

    accepted: int = 0
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TERMINAL, 0))
    retries: int = 0
    waited: array[float] = field(default_factory=lambda: array("d"))
    ran: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("d"))

    def add(self, end: Ended) -> None:
        self.ended[end.state] += 1
        self.retries += end.retries
        self.took.append(end.took)
        if end.waited is not None and end.ran is not None:
            self.waited.append(end.waited)
            self.ran.append(end.ran)

    def as_json(self, seconds: float) -> dict[str, Any]:
        """The counts, ends per minute of the period, and percentiles in seconds (None without values)."""
        ends = sum(self.ended.values())
        shown: dict[str, Any] = {"accepted": self.accepted, **self.ended, "retries": self.retries}
        shown["per_minute"] = round(ends * 60 / seconds, 3) if seconds else 0.0
        for name, values in (("waited", self.waited), ("ran", self.ran), ("took", self.took)):
            shown |= {f"{name}_p{percent}": percentile(values, percent) for percent in (50, 95, 99)}
        return shown


def of_period(
    database: peewee.Database,
    since: dt.datetime,
    until: dt.datetime,
    type_name: str | None = None,
    seen: Callable[[int], None] = lambda count: None,
) -> dict[str, Statistics]:
    """Return statistics of [since, until), naive UTC, by type; `seen` gets the number of tasks read so far.

    Raises DatabaseUnavailable.
    """
    found: dict[str, Statistics] = {}

    def accepted() -> list[Any]:
        came = _between(Task.created_at, since, until, type_name)
        query = Task.select(Task.type, peewee.fn.COUNT(Task.id)).where(came).group_by(Task.type)
        return list(query.tuples())

    for name, count in read(database, accepted):
        found.setdefault(name, Statistics()).accepted = count
    read_so_far = 0
    for page in ended_tasks(lambda work: read(database, lambda: work(database)), since, until, type_name):
        for end in page:
            found.setdefault(end.type, Statistics()).add(end)
        read_so_far += len(page)
        seen(read_so_far)
    return found


def total(statistics: Iterable[Statistics]) -> Statistics:
    """The sum of several groups."""
    whole = Statistics()
    for one in statistics:
        whole.accepted += one.accepted
        whole.retries += one.retries
        for state, count in one.ended.items():
            whole.ended[state] += count
        for mine, theirs in ((whole.waited, one.waited), (whole.ran, one.ran), (whole.took, one.took)):
            mine.extend(theirs)
    return whole


def percentile(values: array[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of the values do not exceed, to the millisecond."""
    if not values:
        return None
    return round(sorted(values)[math.ceil(len(values) * percent / 100) - 1], 3)


def ended_tasks(
    read_page: Callable[[Callable[[peewee.Database], list[Any]]], list[Any]],
    since: dt.datetime,
    until: dt.datetime,
    type_name: str | None = None,
) -> Iterator[list[Ended]]:
    """Yield the tasks that ended in [since, until), page by page. `read_page` calls its argument on a connection."""
    exact = Task.finished_at.cast("CHAR")  # as stored: the digits of a second differ between writers
    columns = (Task.type, Task.attempts, Task.created_at, Task.scheduled_at, Task.started_at, Task.finished_at)
    for state in TERMINAL:
        period = where = (Task.state == state) & _between(Task.finished_at, since, until, type_name)
        while True:
            query = Task.select(*columns, exact, Task.id).where(where).order_by(Task.finished_at, Task.id).limit(_PAGE)
            rows = read_page(lambda database, query=query: list(query.tuples().execute(database)))  # type: ignore[misc]
            yield [_ended(state, *row[:6]) for row in rows]
            if len(rows) < _PAGE:
                break
            moment, last = peewee.AsIs(rows[-1][6], converter=False), rows[-1][7]
            where = period & ((Task.finished_at > moment) | ((Task.finished_at == moment) & (Task.id > last)))


def _between(moment: Any, since: dt.datetime, until: dt.datetime, type_name: str | None) -> Any:
    within = (moment >= since) & (moment < until)
    return within if type_name is None else within & (Task.type == type_name)


def _ended(
    state: str,
    type_name: str,
    attempts: int,
    created: dt.datetime,
    due: dt.datetime | None,
    started: dt.datetime | None,
    finished: dt.datetime,
) -> Ended:
    begun = max(created, due) if due and due < finished else created

    def between(start: dt.datetime, end: dt.datetime) -> float:
        return max((end - start).total_seconds(), 0.0)

    waited = between(begun, started) if started else None
    ran = between(started, finished) if started else None
    return Ended(type_name, state, finished, max(attempts - 1, 0), waited, ran, between(begun, finished))
