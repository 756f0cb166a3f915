"""The last submitted tick, its expression and the pause of each schedule.

All methods raise DatabaseUnavailable; times are aware, UTC.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import peewee

from sytq.ledger.database import insert_ignore, read, transact
from sytq.ledger.models import ScheduleRow
from sytq.ledger.values import naive

#: A last tick this far in the future comes from a clock that was wrong; a failover to another clock explains less.
AHEAD = dt.timedelta(seconds=10)


class Schedules:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def rows(self) -> dict[str, ScheduleRow]:
        """Return the rows by name; a schedule has one once `begin` was called."""
        return read(self._database, lambda: {row.name: row for row in ScheduleRow.select()})

    def begin(self, name: str, now: dt.datetime, expression: str | None = None) -> None:
        """Add a new schedule, with ticks from now on."""
        row: dict[str, Sequence[Any]] = {"name": [name], "last_tick": [naive(now)], "expression": [expression]}
        transact(self._database, lambda: insert_ignore(self._database, "sytq_schedules", row))

    def begin_anew(self, name: str, now: dt.datetime, expression: str) -> None:
        """Forget the last tick: ticks from now on."""
        query = ScheduleRow.update(last_tick=naive(now), expression=expression).where(ScheduleRow.name == name)
        transact(self._database, query.execute)

    def note_expression(self, name: str, expression: str) -> None:
        """Record the expression of a schedule whose row has none, so that a change of it is noticed."""
        query = ScheduleRow.update(expression=expression).where(ScheduleRow.name == name)
        transact(self._database, query.execute)

    def ticked(self, name: str, tick: dt.datetime, expression: str) -> None:
        """Record that a tick was submitted (or skipped)."""
        query = ScheduleRow.update(last_tick=naive(tick), expression=expression).where(
            ScheduleRow.name == name, ScheduleRow.last_tick < naive(tick)
        )
        transact(self._database, query.execute)

    def pause(self, name: str, now: dt.datetime, by: str, why: str) -> None:
        """Pause a schedule; ticks due meanwhile are missed."""
        self.begin(name, now)
        query = ScheduleRow.update(paused_at=naive(now), paused_by=by[:64], paused_why=why[:255])
        transact(self._database, query.where(ScheduleRow.name == name).execute)

    def resume(self, name: str) -> bool:
        """Resume a schedule; False when it was not paused."""
        query = ScheduleRow.update(paused_at=None, paused_by=None, paused_why=None)
        where = (ScheduleRow.name == name) & ScheduleRow.paused_at.is_null(False)
        return bool(transact(self._database, query.where(where).execute))
