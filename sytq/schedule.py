"""The times of a schedule: at an interval, or by a cron expression in a time zone. Reads no clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSimError

from sytq.cron import Cron
from sytq.durations import parse_duration
from sytq.ids import derived_id

#: What happens to missed ticks: the latest runs late, or none runs.
Missed = Literal["once", "skip"]
MISSED: tuple[Missed, ...] = ("once", "skip")
#: The "parent" of all ticks.
_SERIES = "schedules"
#: A tick noticed this late (seconds) counts as missed.
_LATE = 60.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Exactly one of `every` (a duration; ticks at its multiples since 1970 UTC) and `cron` (five fields, or six
    with seconds first). `timezone` is for `cron`; `missed` says what happens to ticks during a pause or an outage."""

    every: float | str | None = None
    cron: str | None = None
    timezone: str = "UTC"
    payload: dict[str, Any] = field(default_factory=dict)
    missed: Missed = "once"

    def __post_init__(self) -> None:
        if (self.every is None) == (self.cron is None):
            raise ValueError("exactly one of every and cron is needed")
        if self.every is not None:
            object.__setattr__(self, "every", parse_duration(self.every))
            if float(self.every) < 1:
                raise ValueError("every: at least 1s")
        if self.missed not in MISSED:
            raise ValueError(f"missed: '{self.missed}' is not valid; valid: {', '.join(MISSED)}")
        try:
            zone = ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"timezone: '{self.timezone}' is not a time zone; valid: such as Europe/Berlin") from None
        if self.cron is not None:
            try:
                Cron(self.cron, zone)
            except CronSimError as error:
                raise ValueError(f"cron: '{self.cron}': {error}; valid: minute hour day month weekday") from None

    def due(self, after: dt.datetime, now: dt.datetime) -> dt.datetime | None:
        """Return the latest tick in (after, now] to run, or None. All times are aware."""
        tick = self._latest(now)
        if tick is None or tick <= after:
            return None
        if self.missed == "skip" and (now - tick).total_seconds() > _LATE:
            return None
        return tick

    def upcoming(self, now: dt.datetime, count: int) -> list[dt.datetime]:
        """Return the next `count` ticks after `now`, in UTC."""
        return list(islice(self._after(now), count))

    def __str__(self) -> str:
        return f"{self.cron} {self.timezone}" if self.cron else f"every {self.every:g}s"

    def _latest(self, now: dt.datetime) -> dt.datetime | None:
        if self.every is not None:
            step = float(self.every)
            return dt.datetime.fromtimestamp(now.timestamp() // step * step, dt.UTC)
        return self._cron().latest(now)

    def _after(self, now: dt.datetime) -> Iterator[dt.datetime]:
        if self.every is not None:
            step = float(self.every)
            first = now.timestamp() // step + 1
            while True:
                yield dt.datetime.fromtimestamp(first * step, dt.UTC)
                first += 1
        yield from self._cron().after(now)

    def _cron(self) -> Cron:
        assert self.cron is not None
        return Cron(self.cron, ZoneInfo(self.timezone))


def tick_id(name: str, tick: dt.datetime) -> str:
    """Return the id of the task of a schedule's tick."""
    return derived_id(_SERIES, f"{name}:{tick.astimezone(dt.UTC).isoformat()}")
