"""The instants of a cron expression in a time zone, also where its clocks change.

cronsim says which times of the clock on the wall match. When those are depends on the expression, as in cronie:

- An interval (`*` in the minute or the hour, or every hour) follows elapsed time: it runs whenever the clock shows a
  matching time, in both passes through an hour that comes twice.
- Any other time is fixed and runs once a day: at the first moment after the gap if it does not exist, at its first
  moment if it comes twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from cronsim import CronSim

_SECOND = dt.timedelta(seconds=1)
_DAY = dt.timedelta(days=1)


class Cron:
    """A cron expression of five fields, or six with seconds first. Raises CronSimError for an invalid one."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        hours = CronSim(expression, dt.datetime(2000, 1, 1)).hours
        minute, hour = expression.split()[-5:-3]
        self._expression = expression
        self._zone = zone
        self._interval = minute.startswith("*") or hour.startswith("*") or len(hours) == 24

    def after(self, start: dt.datetime) -> Iterator[dt.datetime]:
        """Yield the ticks (UTC) after `start`, the earliest first."""
        start = start.astimezone(dt.UTC)
        return self._interval_after(start) if self._interval else self._fixed_after(start)

    def latest(self, end: dt.datetime) -> dt.datetime | None:
        """Return the latest tick (UTC) at or before `end`."""
        end = end.astimezone(dt.UTC).replace(microsecond=0)
        return self._interval_latest(end) if self._interval else self._fixed_latest(end)

    def _interval_after(self, start: dt.datetime) -> Iterator[dt.datetime]:
        period = start  # the offset from UTC is that of this instant
        while True:
            offset = self._offset(period)
            wall = next(CronSim(self._expression, _naive(start + offset)), None)
            if wall is None:
                return
            tick = wall.replace(tzinfo=dt.UTC) - offset
            change = next(self._changes(period, tick), None)
            if change is None:
                yield tick
                start = period = tick
            else:
                start, period = change - _SECOND, change

    def _interval_latest(self, end: dt.datetime) -> dt.datetime | None:
        while True:
            offset = self._offset(end)
            wall = next(CronSim(self._expression, _naive(end + offset + _SECOND), reverse=True), None)
            if wall is None:
                return None
            tick = wall.replace(tzinfo=dt.UTC) - offset
            change = max(self._changes(tick, end), default=None)
            if change is None:
                return tick
            end = change - _SECOND

    def _fixed_after(self, start: dt.datetime) -> Iterator[dt.datetime]:
        for wall in CronSim(self._expression, _naive(start.astimezone(self._zone))):
            tick = self._first_moment(wall)
            if tick > start:  # not so for several times in one gap, nor in the second pass of an hour
                yield tick
                start = tick

    def _fixed_latest(self, end: dt.datetime) -> dt.datetime | None:
        local = end.astimezone(self._zone)
        # In the second pass of an hour, the first has shown later times already.
        shown = _naive(local) + (self._offset(local.replace(fold=0)) - self._offset(local))
        walls = CronSim(self._expression, shown + _SECOND, reverse=True)
        return next((tick for tick in map(self._first_moment, walls) if tick <= end), None)

    def _first_moment(self, wall: dt.datetime) -> dt.datetime:
        """The first instant at which the clock on the wall shows this time, or a later one across a gap."""
        moment = wall.replace(tzinfo=self._zone).astimezone(dt.UTC)
        if _naive(moment.astimezone(self._zone)) == wall:
            return moment
        return next(self._changes(wall.replace(tzinfo=self._zone, fold=1).astimezone(dt.UTC), moment))

    def _changes(self, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """The changes of the offset in (start, end], looked for day by day."""
        while start < end:
            following = min(start + _DAY, end)
            if self._offset(following) != self._offset(start):
                yield self._change(start, following)
            start = following

    def _change(self, start: dt.datetime, end: dt.datetime) -> dt.datetime:
        """The second in (start, end] from which on the offset is that of `end`."""
        low, high, offset = int(start.timestamp()), int(end.timestamp()), self._offset(end)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(dt.datetime.fromtimestamp(middle, dt.UTC)) == offset:
                high = middle
            else:
                low = middle
        return dt.datetime.fromtimestamp(high, dt.UTC)

    def _offset(self, moment: dt.datetime) -> dt.timedelta:
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset


def _naive(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=None, fold=0)
