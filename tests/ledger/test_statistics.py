"""Statistics of a period, on both databases."""

from __future__ import annotations

import datetime as dt
from array import array

import pytest

from sytq.ledger import statistics
from sytq.ledger.database import transact
from sytq.ledger.models import Task

NOON = dt.datetime(2026, 7, 1, 12)
MINUTE = dt.timedelta(minutes=1)


def row(
    number: int, type_name: str, state: str, came: float, started: float | None, ended: float | None, **more: object
):  # type: ignore[no-untyped-def]
    """A task with its times in seconds after noon."""

    def at(seconds: float | None) -> dt.datetime | None:
        return None if seconds is None else NOON + dt.timedelta(seconds=seconds)

    times = {"created_at": at(came), "started_at": at(started), "finished_at": at(ended)}
    return {"id": f"{number:036}", "type": type_name, "state": state, "payload": "{}", "attempts": 1} | times | more


def test_a_period_is_counted_by_type(database, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(statistics, "_PAGE", 2)
    due = NOON + dt.timedelta(seconds=20)
    rows = [
        row(0, "a", "succeeded", -100, -90, -1),  # ended before it
        row(1, "a", "succeeded", -5, 1, 2),  # came before it
        row(2, "a", "succeeded", 0, 2, 5, attempts=3),
        row(3, "a", "dead", 0, 4, 5),  # at the same moment as the one before
        row(4, "a", "succeeded", 10, 23, 29, scheduled_at=due),
        row(5, "b", "cancelled", 3, None, 59.999),
        row(6, "b", "succeeded", 59, 61, 62),  # ends after it
        row(7, "c", "queued", 60, None, None),  # comes after it
    ]
    transact(database, lambda: [Task.insert(one).execute() for one in rows])
    counted: list[int] = []
    found = statistics.of_period(database, NOON, NOON + MINUTE, seen=counted.append)
    assert sorted(found) == ["a", "b"] and counted[-1] == 5
    a, b = found["a"].as_json(60), found["b"].as_json(60)
    assert (a["accepted"], a["succeeded"], a["dead"], a["cancelled"], a["retries"]) == (3, 3, 1, 0, 2)
    assert (a["per_minute"], b["per_minute"]) == (4.0, 1.0)
    assert sorted(found["a"].waited) == [2, 3, 4, 6] and sorted(found["a"].ran) == [1, 1, 3, 6]
    assert sorted(found["a"].took) == [5, 5, 7, 9]
    assert (b["accepted"], b["cancelled"], b["ran_p50"], b["took_p50"]) == (2, 1, None, 56.999)
    whole = statistics.total(found.values())
    assert whole.accepted == 5 and len(whole.took) == 5
    assert list(statistics.of_period(database, NOON, NOON + MINUTE, "b")) == ["b"]


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (95, 95.0), (99, 99.0), (100, 100.0)])
def test_a_percentile_is_one_of_the_values(percent: int, value: float) -> None:
    assert statistics.percentile(array("d", range(100, 0, -1)), percent) == value
    assert statistics.percentile(array("d"), percent) is None
