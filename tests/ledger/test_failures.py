"""Dead tasks by cause, on both databases."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import peewee
import pytest

from sytq.ids import new_id
from sytq.ledger import failures
from sytq.ledger.database import transact
from sytq.ledger.failures import FailureRollup, Failures
from sytq.ledger.models import Task

NOON = dt.datetime(2026, 7, 1, 12)
HOUR = 3600


@pytest.fixture(autouse=True)
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time, in seconds after noon."""

    def set_to(seconds: float) -> None:
        now = NOON + dt.timedelta(seconds=seconds)
        monkeypatch.setattr(failures, "utcnow", lambda: now)

    set_to(0)
    return set_to


def dead(database: peewee.Database, mark: str | None, *times: float, **more: Any) -> list[str]:
    """Tasks that died at these times, in seconds after noon."""
    rows = []
    for seconds in times:
        moment = NOON + dt.timedelta(seconds=seconds)
        row = {"id": new_id(), "type": "mail", "owner": "shop", "payload": "{}", "state": "dead", "created_at": moment}
        rows.append(row | {"error": f"broken by {mark}", "error_fingerprint": mark, "finished_at": moment} | more)
    for part in range(0, len(rows), 500):
        transact(database, Task.insert_many(rows[part : part + 500]).execute)
    return [str(row["id"]) for row in rows]


def count(database: peewee.Database) -> FailureRollup:
    rolled = FailureRollup(database)
    sweep(rolled)
    return rolled


def sweep(rolled: FailureRollup) -> None:
    """Count all periods."""
    while rolled.advance():
        pass


def test_5000_failures_are_three_rows(database, at) -> None:  # type: ignore[no-untyped-def]
    dead(database, "a", *(-n for n in range(1, 3001)))
    dead(database, "b", *(-n for n in range(1, 1990)))
    [latest] = dead(database, None, -7)
    count(database)
    [one, two, three] = Failures(database).causes("hour")
    assert [(cause.fingerprint, cause.tasks) for cause in (one, two, three)] == [("a", 3000), ("b", 1989), ("", 1)]
    assert (one.first_at, one.last_at) == (NOON - dt.timedelta(seconds=3000), NOON - dt.timedelta(seconds=1))
    assert one.error == "broken by a" and three.sample == latest
    assert sum(tasks for _, tasks in one.trend) == 3000 and len(one.trend) == 5


def test_periods_owners_and_types_are_filters(database, at) -> None:  # type: ignore[no-untyped-def]
    for age in (600, 5 * HOUR, 3 * 24 * HOUR, 40 * 24 * HOUR):
        dead(database, "a", -age)
    dead(database, "b", -60, owner="crm", type="letter")
    dead(database, "c", -60, owner=None)
    count(database)
    asked = Failures(database)

    def tasks(period: str, **filters: Any) -> dict[str, int]:
        return {cause.fingerprint: cause.tasks for cause in asked.causes(period, **filters)}

    assert tasks("hour") == {"a": 1, "b": 1, "c": 1}
    assert [tasks(period, owner="shop") for period in ("day", "week", "all")] == [{"a": 2}, {"a": 3}, {"a": 4}]
    assert tasks("all", type_name="letter") == {"b": 1} and tasks("all", owner="crm", type_name="mail") == {}
    assert asked.count(NOON - dt.timedelta(hours=1)) == 3
    assert asked.count(NOON - dt.timedelta(hours=1), owner="crm") == 1


def test_replayed_and_deleted_tasks_leave_their_group(database, at) -> None:  # type: ignore[no-untyped-def]
    old = dead(database, "old", *(-n * HOUR for n in range(1, 60)))
    new = dead(database, "new", *range(-300, 0))
    rolled = count(database)
    transact(database, lambda: Task.update(state="queued", finished_at=None).where(Task.id.in_(new)).execute())
    transact(database, lambda: Task.delete().where(Task.id.in_(old[1:])).execute())
    sweep(rolled)
    assert [(cause.fingerprint, cause.tasks) for cause in Failures(database).causes("all")] == [("old", 1)]
    at(3 * 24 * HOUR)  # ten minutes become an hour
    sweep(rolled)
    assert [cause.tasks for cause in Failures(database).causes("all")] == [1]


def test_much_work_is_done_in_parts_and_the_latest_first(database, at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    dead(database, "a", *(-n * HOUR - 1 for n in range(30)))
    monkeypatch.setattr(failures, "_BOUND", 0.0)
    rolled = FailureRollup(database)
    for counted in (2, 3, 4):  # at least one step a call
        rolled.advance()
        assert [cause.tasks for cause in Failures(database).causes("all")] == [counted]
    monkeypatch.setattr(failures, "_BOUND", 60.0)
    sweep(rolled)
    assert [cause.tasks for cause in Failures(database).causes("all")] == [30]


def test_two_workers_that_count_at_once_agree(database, at) -> None:  # type: ignore[no-untyped-def]
    dead(database, "a", -1, -2, -3)
    first, second = FailureRollup(database), FailureRollup(database)
    begin = int(NOON.replace(tzinfo=dt.UTC).timestamp()) - 600
    with database.connection_context():
        rows = first._dead(begin, begin + 600)
    transact(database, lambda: second._replace(begin, begin + 600, rows))
    transact(database, lambda: first._replace(begin, begin + 600, rows))
    assert [cause.tasks for cause in Failures(database).causes("all")] == [3]


def test_retrying_tasks_are_grouped_by_their_last_error(database, at) -> None:  # type: ignore[no-untyped-def]
    dead(database, "a", -50, -40, state="retrying", finished_at=None, started_at=NOON)
    dead(database, "b", -50, state="retrying", finished_at=None, started_at=NOON, owner="crm")
    dead(database, "a", -50)
    asked = Failures(database)
    assert [(cause.fingerprint, cause.tasks, cause.last_at) for cause in asked.retrying()] == [
        ("a", 2, NOON),
        ("b", 1, NOON),
    ]
    assert [cause.fingerprint for cause in asked.retrying(owner="crm")] == ["b"]
    assert asked.retrying(type_name="letter") == []


def test_a_date_without_a_time_does_not_stop_the_counting(database, at) -> None:  # type: ignore[no-untyped-def]
    """SQLite compares text: the date alone comes before its midnight."""
    for finished in ("2026-06-30", "2026-06-20 10:00:00"):
        columns = f"('{finished[8:10]}', 'mail', 'dead', '{{}}', '{finished}')"
        database.execute_sql(f"INSERT INTO sytq_tasks (id, type, state, payload, finished_at) VALUES {columns}")
    rolled = FailureRollup(database)
    assert any(not rolled.advance() for _ in range(20))
    assert Failures(database).count(NOON - dt.timedelta(days=30)) >= 1
