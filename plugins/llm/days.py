"""The spend of whole days by provider, model, type and owner: summed once a day is over, so that a page reads few rows.

Today, and a day that no worker has summed yet, are summed when they are read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import peewee
from peewee import BigIntegerField, CharField, CompositeKey, Model

from sytq.ledger.database import read, transact
from sytq.ledger.values import utcnow

from .spend import SpendRow, Tokens

if TYPE_CHECKING:
    from sytq.runtime import Runtime

_LATE = 2  # days that are summed again: a call may end after midnight, and a lost one may be found
_AT_ONCE = 10  # days in one call of the loop
_LOOK = 600.0


class SpendDay(Model):
    """The calls of a day, of one provider, model, type and owner ("" is none); `cost` is in 10^-12."""

    day = CharField()
    provider = CharField()
    model = CharField()
    type = CharField()
    owner = CharField()
    calls = BigIntegerField()
    prompt_tokens = BigIntegerField()
    cached_tokens = BigIntegerField()
    completion_tokens = BigIntegerField()
    reasoning_tokens = BigIntegerField()
    cost = BigIntegerField()
    unknown = BigIntegerField()  # calls of unknown cost

    class Meta:
        table_name = "sytq_spend_days"
        primary_key = CompositeKey("day", "provider", "model", "type", "owner")


class Sum(NamedTuple):
    """The fields of a SpendDay."""

    day: str
    provider: str
    model: str
    type: str
    owner: str
    calls: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    cost: int
    unknown: int


def sums(database: peewee.Database, since: dt.date, owner: str | None = None) -> list[Sum]:
    """The sums of all days from `since`; with an `owner` of its calls alone. Raises DatabaseUnavailable."""
    today = utcnow().date()
    days = {(since + dt.timedelta(days=n)).isoformat() for n in range((today - since).days + 1)}

    def work() -> list[Sum]:
        summed = _days(SpendDay, since.isoformat())
        mine = [] if owner is None else [SpendDay.owner == owner]
        old: Iterable[Any] = SpendDay.select().where(SpendDay.day >= since.isoformat(), *mine).tuples()
        return [Sum._make(row) for row in old] + _summed(sorted(days - summed), owner)

    return read(database, work)


def sum_up(runtime: Runtime) -> Callable[[], float] | None:
    """The loop that sums the days that are over."""
    database = runtime.database

    def work() -> float:
        today = utcnow().date()
        late = {(today - dt.timedelta(days=n)).isoformat() for n in range(1, _LATE + 1)}
        over = [day for day in read(database, lambda: _days(SpendRow, "")) if day < today.isoformat()]
        summed = read(database, lambda: _days(SpendDay, "")) - late
        due = sorted((day for day in over if day not in summed), reverse=True)
        for day in due[:_AT_ONCE]:
            transact(database, lambda day=day: _sum(day))  # type: ignore[misc]
        return _LOOK if len(due) <= _AT_ONCE else 1.0

    return work


def _sum(day: str) -> None:
    rows = _summed([day])
    SpendDay.delete().where(SpendDay.day == day).execute()
    for start in range(0, len(rows), 50):  # SQLite takes 999 parameters
        SpendDay.insert_many(rows[start : start + 50], fields=SpendDay._meta.sorted_fields).execute()


def _summed(days: Sequence[str], owner: str | None = None) -> list[Sum]:
    """The sums of these days, from the calls."""
    if not days:
        return []
    columns = [SpendRow.day, SpendRow.provider, SpendRow.model, SpendRow.type, SpendRow.owner]
    unknown = peewee.Case(None, [(SpendRow.cost.is_null(), 1)], 0)
    query = SpendRow.select(
        *columns,
        peewee.fn.COUNT(SpendRow.task_id),
        *(peewee.fn.SUM(getattr(SpendRow, f"{name}_tokens")) for name in Tokens.__slots__),
        peewee.fn.COALESCE(peewee.fn.SUM(SpendRow.cost), 0),
        peewee.fn.SUM(unknown),
    ).where(SpendRow.day.in_(days), *([] if owner is None else [SpendRow.owner == owner]))
    rows: Iterable[Any] = query.group_by(*columns).tuples()
    return [Sum._make([*row[:4], row[4] or "", *map(int, row[5:])]) for row in rows]


def _days(model: Any, since: str) -> set[str]:
    """The days with rows."""
    return {day for (day,) in model.select(model.day).where(model.day >= since).distinct().tuples()}
