"""Cron expressions in all time zones: an interval follows elapsed time, a fixed time runs once a day."""

from __future__ import annotations

import datetime as dt
import functools
import zoneinfo
from bisect import bisect_left
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sytq import Schedule
from sytq.cron import Cron

UTC = dt.UTC
MINUTE = dt.timedelta(minutes=1)
TEN_YEARS = (dt.datetime(2018, 1, 1, tzinfo=UTC), dt.datetime(2028, 1, 1, tzinfo=UTC))
DAYS = [TEN_YEARS[0] + dt.timedelta(days=n) for n in range((TEN_YEARS[1] - TEN_YEARS[0]).days + 1)]
ALL = set(range(60))
HOURS = set(range(24))
#: Expression -> the minutes and hours that match, and whether it is an interval.
EXPRESSIONS = {
    "* * * * *": (ALL, HOURS, True),
    "*/10 * * * *": (set(range(0, 60, 10)), HOURS, True),
    "0 * * * *": ({0}, HOURS, True),
    "0,30 0-23 * * *": ({0, 30}, HOURS, True),
    "*/15 1-3 * * *": ({0, 15, 30, 45}, {1, 2, 3}, True),
    "5 */2 * * *": ({5}, set(range(0, 24, 2)), True),
    "0 0 * * *": ({0}, {0}, False),
    "30 2 * * *": ({30}, {2}, False),
    "0 30 2 * * *": ({30}, {2}, False),
    "10,40 0,1,2,3 * * *": ({10, 40}, {0, 1, 2, 3}, False),
    "45 23 * * *": ({45}, {23}, False),
}


def expected(expression: str, zone: ZoneInfo, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """The ticks in (start, end], minute by minute, from a clock on the wall that somebody watches.

    A fixed time has come when the clock shows it, or a later time, for the first time.
    """
    minutes, hours, interval = EXPRESSIONS[expression]
    found: list[dt.datetime] = []
    latest_shown = dt.datetime.min
    moment = start.replace(second=0, microsecond=0) - dt.timedelta(hours=3)
    while moment <= end:
        shown = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        if interval:
            due = shown.minute in minutes and shown.hour in hours
        else:
            newly = (shown - n * MINUTE for n in range(min(180, max(0, (shown - latest_shown) // MINUTE))))
            due = any(each.minute in minutes and each.hour in hours for each in newly)
            latest_shown = max(latest_shown, shown)
        if due and start < moment:
            found.append(moment)
        moment += MINUTE
    return found


@functools.cache
def changes() -> dict[tuple[object, ...], tuple[ZoneInfo, dt.datetime]]:
    """The changes of the offset in all zones and ten years; one of those with the same offsets at the same time."""
    found: dict[tuple[object, ...], tuple[ZoneInfo, dt.datetime]] = {}
    for name in sorted(zoneinfo.available_timezones()):
        zone = ZoneInfo(name)
        offsets = [day.astimezone(zone).utcoffset() for day in DAYS]
        for day, before, offset in zip(DAYS, offsets, offsets[1:], strict=False):
            if offset != before:
                moments = [day + n * MINUTE for n in range(24 * 60 + 1)]
                first = bisect_left(moments, True, key=lambda moment: moment.astimezone(zone).utcoffset() == offset)
                found.setdefault((before, offset, moments[first].time()), (zone, moments[first]))
    return found


def assert_ticks(expression: str, zone: ZoneInfo, start: dt.datetime, end: dt.datetime) -> None:
    cron, ticks = Cron(expression, zone), expected(expression, zone, start, end)
    found: list[dt.datetime] = []
    for tick in cron.after(start):
        if tick > end:
            break
        found.append(tick)
    assert found == ticks, (expression, zone, start)
    pairs = list(zip(ticks, [*ticks, end + dt.timedelta(days=2)][1:], strict=True))
    for tick, following in pairs[:: 1 + len(pairs) // 50]:
        assert cron.latest(tick) == tick
        assert cron.latest(min(following - dt.timedelta(microseconds=1), end)) == tick, "none early, none twice"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_ticks_are_those_of_the_clock_where_any_zone_changes(expression: str) -> None:
    for zone, change in changes().values():
        assert_ticks(expression, zone, change - dt.timedelta(hours=4), change + dt.timedelta(hours=4))
    assert len(changes()) > 50


@settings(deadline=None)
@given(
    expression=st.sampled_from(sorted(EXPRESSIONS)),
    name=st.sampled_from(sorted(zoneinfo.available_timezones())),
    start=st.datetimes(*(each.replace(tzinfo=None) for each in TEN_YEARS), timezones=st.just(UTC)),
    hours=st.integers(1, 30),
)
def test_ticks_between_any_two_instants_are_those_of_the_clock(
    expression: str, name: str, start: dt.datetime, hours: int
) -> None:
    assert_ticks(expression, ZoneInfo(name), start, start + dt.timedelta(hours=hours))


@pytest.mark.parametrize(
    ("expression", "zone", "after", "ticks"),
    [
        # Both passes of the doubled hour, 02:00 to 03:00 on 2026-10-25.
        ("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:59", ["00:00", "00:30", "01:00", "01:30", "02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T23:59", ["00:30", "+1 01:30"]),
        # 02:00 to 03:00 does not exist on 2026-03-29.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00", ["01:00", "+1 00:30"]),
        ("0 30 2 * * *", "Europe/Berlin", "2026-03-29T00:00", ["01:00", "+1 00:30"]),
        ("0,15,30 2 * * *", "Europe/Berlin", "2026-03-29T00:00", ["01:00", "+1 00:00"]),
        # Midnight does not exist; half an hour; a whole day is left out.
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00", ["22:00", "+1 21:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["14:45", "+1 15:15"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-30T00:00", ["10:00", "22:00", "+1 22:00"]),
        ("*/15 * * * * *", "UTC", "2026-01-01T00:00:50", ["00:01:00", "00:01:15"]),
    ],
)
def test_ticks_of_known_changes_of_the_clock(expression: str, zone: str, after: str, ticks: list[str]) -> None:
    start = dt.datetime.fromisoformat(after).replace(tzinfo=UTC)
    days, times = zip(*(("+0 " + tick).rsplit(" ", 1) for tick in ticks), strict=True)
    first = start.date() if ticks[0] > start.strftime("%H:%M") else start.date() + dt.timedelta(days=1)
    wanted = [
        dt.datetime.combine(first + dt.timedelta(days=int(day.split()[-1])), dt.time.fromisoformat(time), UTC)
        for day, time in zip(days, times, strict=True)
    ]
    assert Schedule(cron=expression, timezone=zone).upcoming(start, len(ticks)) == wanted


def test_a_fixed_time_that_came_twice_is_not_due_in_its_second_pass() -> None:
    schedule = Schedule(cron="30 2 * * *", timezone="Europe/Berlin")
    first, second = (dt.datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1))
    assert schedule.due(first - MINUTE, first) == first
    assert schedule.due(first, second) is None
    assert schedule.due(first - MINUTE, second - dt.timedelta(minutes=10)) == first
