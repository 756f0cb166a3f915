"""The timetable: which tick of each schedule was submitted last, and which schedules are paused by whom and why.

Owns every access to `sytq_schedules`. Must not compute ticks (schedule.py) nor submit.
All methods raise DatabaseUnavailable when the database is away; times are aware, UTC.
"""

from __future__ import annotations

import datetime as dt

import peewee

from sytq.ledger.database import read, transact
from sytq.ledger.models import ScheduleRow
from sytq.ledger.values import naive


class Schedules:
    """Reads and writes of one database."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def rows(self) -> dict[str, ScheduleRow]:
        """Every schedule that was ever seen, by name."""
        return read(self._database, lambda: {row.name: row for row in ScheduleRow.select()})

    def begin(self, name: str, now: dt.datetime) -> None:
        """Note a schedule that is new: its ticks count from now on."""
        transact(
            self._database,
            lambda: ScheduleRow.insert(name=name, last_tick=naive(now)).on_conflict_ignore().execute(),
        )

    def ticked(self, name: str, tick: dt.datetime) -> None:
        """Note that a tick was submitted (or passed over)."""
        query = ScheduleRow.update(last_tick=naive(tick)).where(
            ScheduleRow.name == name, ScheduleRow.last_tick < naive(tick)
        )
        transact(self._database, query.execute)

    def pause(self, name: str, now: dt.datetime, by: str, why: str) -> None:
        """Pause a schedule; what is due meanwhile counts as missed."""
        self.begin(name, now)
        query = ScheduleRow.update(paused_at=naive(now), paused_by=by[:64], paused_why=why[:255])
        transact(self._database, query.where(ScheduleRow.name == name).execute)

    def resume(self, name: str) -> bool:
        """End a pause; False when there was none."""
        query = ScheduleRow.update(paused_at=None, paused_by=None, paused_why=None)
        where = (ScheduleRow.name == name) & ScheduleRow.paused_at.is_null(False)
        return bool(transact(self._database, query.where(where).execute))
