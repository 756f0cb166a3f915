"""Ticks depend only on the schedule."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sytq import Schedule

UTC = dt.UTC
moments = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2035, 1, 1), timezones=st.just(UTC))


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(now=moments, step=st.integers(1, 10**6))
def test_every_ticks_at_multiples_of_its_interval(now: dt.datetime, step: int) -> None:
    schedule = Schedule(every=step)
    (following,) = schedule.upcoming(now, 1)
    assert following.timestamp() % step == 0
    assert 0 < following.timestamp() - now.timestamp() <= step
    assert schedule.due(now, following) == following
    assert schedule.due(following, following) is None


@given(now=moments)
def test_cron_tick_is_due_at_its_time_and_not_before(now: dt.datetime) -> None:
    schedule = Schedule(cron="*/7 3-5 * * MON-FRI", timezone="Europe/Berlin")
    (following,) = schedule.upcoming(now, 1)
    before = following - dt.timedelta(microseconds=1)
    assert schedule.due(now, before) is None
    assert schedule.due(now, following) == following
    assert schedule.due(now, following + dt.timedelta(seconds=30, microseconds=1)) in (following,)


def test_daily_schedule_runs_once_a_day_across_clock_changes() -> None:
    schedule = Schedule(cron="30 2 * * *", timezone="Europe/Berlin")
    spring = schedule.upcoming(at("2026-03-28T12:00"), 2)  # 02:30 does not exist on the 29th
    autumn = schedule.upcoming(at("2026-10-24T12:00"), 2)  # 02:30 exists twice on the 25th
    assert spring == [at("2026-03-29T01:00"), at("2026-03-30T00:30")]
    assert autumn == [at("2026-10-25T00:30"), at("2026-10-26T01:30")]


def test_missed_ticks_are_run_once_or_not_at_all() -> None:
    last, now = at("2026-01-01T03:00"), at("2026-01-05T12:00")
    assert Schedule(cron="0 3 * * *").due(last, now) == at("2026-01-05T03:00")
    assert Schedule(cron="0 3 * * *", missed="skip").due(last, now) is None
    assert Schedule(cron="0 3 * * *", missed="skip").due(last, at("2026-01-05T03:00:40")) == at("2026-01-05T03:00")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of every and cron"),
        ({"every": "10s", "cron": "* * * * *"}, "exactly one of every and cron"),
        ({"every": "10ms"}, "at least 1s"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "* *"}, "Wrong number of fields"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "not a time zone"),
        ({"every": "1h", "missed": "all"}, "valid: once, skip"),
    ],
)
def test_invalid_schedule_is_refused(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schedule(**arguments)  # type: ignore[arg-type]
