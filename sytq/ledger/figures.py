"""What came and ended in a period, as charts and rates show it. Reads the rows that `sytq.ledger.rollup` keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import peewee

from sytq.ledger.database import read
from sytq.ledger.models import Figure
from sytq.ledger.rollup import HOUR, MINUTE, TEN_MINUTES
from sytq.ledger.values import floor, to_ms, utcnow

#: Range of a chart -> its seconds, and those of a step.
RANGES = {"hour": (HOUR, MINUTE), "day": (24 * HOUR, TEN_MINUTES), "week": (7 * 24 * HOUR, HOUR)}
#: Whole minutes that a rate is the mean of.
RATE_MINUTES = 5

#: A type, and the queue and priority that its rows say; other languages may say none ("").
Place = tuple[str, str, str]

_COUNTS = (Figure.accepted, Figure.succeeded, Figure.dead, Figure.cancelled, Figure.retries, Figure.ran)
_SUMS = [peewee.fn.SUM(column) for column in (*_COUNTS, Figure.waiting_seconds, Figure.running_seconds)]


@dataclass(slots=True)
class Counts:
    """What happened within some seconds; `ran` ended tasks waited and ran for the seconds."""

    accepted: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    retries: int = 0
    ran: int = 0
    waiting_seconds: float = 0.0
    running_seconds: float = 0.0

    @classmethod
    def of(cls, sums: tuple[Any, ...]) -> Counts:
        return cls(*map(int, sums[:6]), *map(float, sums[6:]))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in Counts.__slots__))

    @property
    def failing(self) -> float | None:
        """The part of the ended tasks that are dead, cancelled ones left out."""
        ended = self.succeeded + self.dead
        return self.dead / ended if ended else None


class Figures:
    """Every method raises DatabaseUnavailable. With an `owner` only their tasks count."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def chart(self, name: str, *, owner: str | None = None, type_name: str | None = None) -> dict[int, Counts]:
        """Return the counts of each step of a range that ends now, by its begin (Unix seconds); none is left out."""
        seconds, span = RANGES[name]
        last = floor(to_ms(utcnow()) // 1000, span)
        first = last - seconds + span
        where = [Figure.type == type_name] if type_name is not None else []
        query = self._query(Figure.since, span=span, since=first, owner=owner).where(*where)
        found = {int(since): Counts.of(tuple(sums)) for since, *sums in self._rows(query)}
        return {since: found.get(since) or Counts() for since in range(first, last + span, span)}

    def lately(self, *, owner: str | None = None) -> dict[Place, Counts]:
        """Return the counts of the last RATE_MINUTES whole minutes."""
        until = floor(to_ms(utcnow()) // 1000, MINUTE)
        return self._by_place(MINUTE, until - RATE_MINUTES * MINUTE, until, owner)

    def of_a_day(self, *, owner: str | None = None) -> dict[Place, Counts]:
        """Return the counts of the last 24 hours, to ten minutes."""
        now = to_ms(utcnow()) // 1000
        return self._by_place(TEN_MINUTES, floor(now - 24 * HOUR, TEN_MINUTES), now, owner)

    def _by_place(self, span: int, since: int, until: int, owner: str | None) -> dict[Place, Counts]:
        key = (Figure.type, Figure.queue, Figure.priority)
        rows = self._rows(self._query(*key, span=span, since=since, owner=owner).where(Figure.since < until))
        return {(name, queue, priority): Counts.of(tuple(sums)) for name, queue, priority, *sums in rows}

    def _query(self, *key: Any, span: int, since: int, owner: str | None) -> Any:
        query = Figure.select(*key, *_SUMS).where(Figure.span == span, Figure.since >= since).group_by(*key)
        return query if owner is None else query.where(Figure.owner == owner)

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        return read(self._database, partial(list, query.tuples()))
