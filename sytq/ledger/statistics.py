"""Statistics of a period by task type. Tasks are read page by page; only three durations of each stay in memory."""

from __future__ import annotations

import datetime as dt
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import peewee

from sytq.ledger.database import read
from sytq.ledger.models import Task
from sytq.states import TERMINAL

_PAGE = 5000


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
    for state in TERMINAL:
        for page in ended_pages(lambda work: read(database, lambda: work(database)), state, since, until, type_name):
            for name, attempts, created, due, started, finished in page:
                statistics = found.setdefault(name, Statistics())
                statistics.ended[state] += 1
                statistics.retries += max(attempts - 1, 0)
                begun = max(created, due) if due and due < finished else created
                statistics.took.append(max((finished - begun).total_seconds(), 0.0))
                if started:  # a task cancelled before its time never did
                    statistics.waited.append(max((started - begun).total_seconds(), 0.0))
                    statistics.ran.append(max((finished - started).total_seconds(), 0.0))
            read_so_far += len(page)
            seen(read_so_far)
    return found


def total(statistics: dict[str, Statistics]) -> Statistics:
    """All types as one."""
    whole = Statistics()
    for one in statistics.values():
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


def ended_pages(
    read_page: Callable[[Callable[[peewee.Database], list[Any]]], list[Any]],
    state: str,
    since: dt.datetime,
    until: dt.datetime,
    type_name: str | None = None,
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the tasks that ended in [since, until) in this state, page by page: type, attempts, and the times of
    creation, schedule, start and end. `read_page` calls its argument on a connection."""
    exact = Task.finished_at.cast("CHAR")  # as stored: the digits of a second differ between writers
    columns = (Task.type, Task.attempts, Task.created_at, Task.scheduled_at, Task.started_at, Task.finished_at)
    period = (Task.state == state) & _between(Task.finished_at, since, until, type_name)
    where = period
    while True:
        query = Task.select(*columns, exact, Task.id).where(where).order_by(Task.finished_at, Task.id).limit(_PAGE)
        rows = read_page(lambda database, query=query: list(query.tuples().execute(database)))  # type: ignore[misc]
        yield [row[:6] for row in rows]
        if len(rows) < _PAGE:
            return
        moment, last = peewee.AsIs(rows[-1][6], converter=False), rows[-1][7]
        where = period & ((Task.finished_at > moment) | ((Task.finished_at == moment) & (Task.id > last)))


def _between(moment: Any, since: dt.datetime, until: dt.datetime, type_name: str | None) -> Any:
    within = (moment >= since) & (moment < until)
    return within if type_name is None else within & (Task.type == type_name)
