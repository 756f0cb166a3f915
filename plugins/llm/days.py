"""The spend of whole days by provider, model, type and owner: summed once a day is over, so that a page reads few rows.

Today, and a day that no worker has summed yet, are summed when they are read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import peewee
from peewee import BigIntegerField, CharField, CompositeKey, Model

from sytq.ledger.database import read, transact
from sytq.ledger.values import utcnow

from .spend import SpendRow, totals

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


def sums(database: peewee.Database, since: dt.date, owner: str | None = None) -> list[SpendDay]:
    """The sums of all days from `since`; with an `owner` of its calls alone. Raises DatabaseUnavailable."""
    today = utcnow().date()
    days = {(since + dt.timedelta(days=n)).isoformat() for n in range((today - since).days + 1)}

    def work() -> list[SpendDay]:
        summed = _days(SpendDay, since.isoformat())
        mine = [] if owner is None else [SpendDay.owner == owner]
        old = list(SpendDay.select().where(SpendDay.day >= since.isoformat(), *mine))
        return old + _summed(sorted(days - summed), owner)

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
    SpendDay.bulk_create(rows, batch_size=50)  # SQLite takes 999 parameters


def _summed(days: Sequence[str], owner: str | None = None) -> list[SpendDay]:
    """The sums of these days, from the calls."""
    if not days:
        return []
    columns = [SpendRow.day, SpendRow.provider, SpendRow.model, SpendRow.type, SpendRow.owner]
    query = SpendRow.select(*columns, *totals()).where(SpendRow.day.in_(days)).group_by(*columns)
    rows: Any = (query if owner is None else query.where(SpendRow.owner == owner)).tuples()
    fields = SpendDay._meta.sorted_field_names
    return [SpendDay(**dict(zip(fields, (*row[:4], row[4] or "", *map(int, row[5:])), strict=True))) for row in rows]


def _days(model: Any, since: str) -> set[str]:
    """The days with rows."""
    return {day for (day,) in model.select(model.day).where(model.day >= since).distinct().tuples()}
