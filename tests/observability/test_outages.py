"""An outage is one fault: each kind of failure is logged once, then with a count, and its end is logged."""

from __future__ import annotations

import threading
from typing import Any

import peewee
import pytest

from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.observability import outages
from sytq.observability.outages import Outage, log_failure


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Lines(list[tuple[str, str, dict[str, Any]]]):
    """A logger that keeps its lines."""

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.append((level, event, fields))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(outages, "time", made)
    return made


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    made = Lines()
    monkeypatch.setattr(outages, "log", made)
    return made


def fail(outage: Outage, lines: Lines, event: str = "fetch failed", error: str = "refused", **fields: Any) -> None:
    outage.failed(lines, event, RedisUnavailable(error), "warning", **fields)


def test_thousand_failures_of_an_outage_are_logged_once_with_their_number(clock: Clock, lines: Lines) -> None:
    outage = Outage("Redis")
    for _ in range(1000):
        fail(outage, lines, queue="q")
        clock.now += 0.012
    assert lines == [("warning", "fetch failed", {"error": "refused", "queue": "q"})]
    clock.now += 2.9
    outage.answered()
    assert outage.since is not None
    clock.now += 0.2
    outage.answered()
    outage.answered()
    assert lines[1:] == [("info", "Redis answers again", {"unavailable": 12.0, "more": 999})]


def test_long_outage_is_logged_again_ever_more_rarely(clock: Clock, lines: Lines) -> None:
    outage = Outage("Redis")
    told = []
    for second in range(1000):
        fail(outage, lines)
        told += [second] * (len(lines) - len(told))
        clock.now += 1
    assert told == [0, 30, 90, 210, 450, 750]
    assert lines[1][2] == {"error": "refused", "more": 29, "within": 30.0}


def test_failures_that_differ_are_logged_each(clock: Clock, lines: Lines) -> None:
    outage = Outage("Redis")
    for n in range(3):
        fail(outage, lines, "fetch failed", f"no answer from port {n}")
        fail(outage, lines, "fetch failed", "OOM command not allowed")
        fail(outage, lines, "heartbeat failed", f"no answer from port {n}")
    assert [(event, fields["error"]) for _, event, fields in lines] == [
        ("fetch failed", "no answer from port 0"),
        ("fetch failed", "OOM command not allowed"),
        ("heartbeat failed", "no answer from port 0"),
    ]


def test_refusals_with_other_numbers_of_mysql_are_logged_each(clock: Clock, lines: Lines) -> None:
    outage = Outage("the database")
    for _ in range(3):
        for error in (peewee.OperationalError(1114), peewee.OperationalError(1205), peewee.DataError(1366)):
            outage.failed(lines, "request refused by the database", error, "error")
    assert [fields["error"] for _, _, fields in lines] == ["1114", "1205", "1366"]


def test_next_outage_is_logged_anew_and_one_that_comes_and_goes_is_one(clock: Clock, lines: Lines) -> None:
    outage = Outage("Redis")
    for _ in range(100):
        fail(outage, lines)
        for _ in range(10):
            clock.now += 1
            if outage.since is not None:
                outage.answered()
    events = [event for _, event, _ in lines]
    assert events[:5] == ["fetch failed", "Redis answers again"] * 2 + ["fetch failed"]
    assert len(events) < 20
    clock.now += 3600
    outage.answered()
    fail(outage, lines)
    assert [line[1] for line in lines[-2:]] == ["Redis answers again", "fetch failed"]


def test_unbounded_kinds_of_failures_are_forgotten(clock: Clock, lines: Lines) -> None:
    outage = Outage("Redis")
    for n in range(1000):
        fail(outage, lines, error="x" * n)
    assert len(outage._kinds) <= 100


def test_each_store_has_its_own_outage(monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    monkeypatch.setattr(outages, "REDIS", redis := Outage("Redis"))
    monkeypatch.setattr(outages, "DATABASE", database := Outage("the database"))
    log_failure(lines, "loop waits", DatabaseUnavailable("gone"), loop="record")
    assert (redis.since, database.since is None) == (None, False)
    log_failure(lines, "loop waits", RedisUnavailable("gone"), loop="record")
    assert [line[1] for line in lines] == ["loop waits"] * 2


def test_many_threads_log_a_failure_once(lines: Lines) -> None:
    outage = Outage("Redis")
    threads = [threading.Thread(target=fail, args=(outage, lines)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 1
