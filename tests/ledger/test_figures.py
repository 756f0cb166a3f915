"""Figures of periods, kept from the tasks, on both databases."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Callable
from typing import Any

import peewee
import pytest

from sytq.ids import new_id
from sytq.ledger import figures, rollup
from sytq.ledger.database import is_mysql, open_database, read, transact
from sytq.ledger.figures import Counts, Figures
from sytq.ledger.hold import set_position
from sytq.ledger.models import Figure, Recorded, Task
from sytq.ledger.rollup import HOUR, MINUTE, TEN_MINUTES, Rollup
from sytq.ledger.values import floor, to_ms
from sytq.states import TERMINAL

NOON = dt.datetime(2026, 7, 1, 12)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time, in seconds after noon."""

    def set_to(seconds: float) -> None:
        now = NOON + dt.timedelta(seconds=seconds)
        for module in (rollup, figures):
            monkeypatch.setattr(module, "utcnow", lambda: now)

    set_to(0)
    return set_to


def add(database: peewee.Database, *tasks: dict[str, Any]) -> None:
    rows = []
    for task in tasks:
        times = {
            name: None if (value := task.pop(name, None)) is None else NOON + dt.timedelta(seconds=value)
            for name in ("created_at", "scheduled_at", "revived_at", "started_at", "finished_at")
        }
        row = {"id": new_id(), "type": "mail", "queue": "post", "priority": "normal", "owner": "shop", "payload": "{}"}
        rows.append({**row, "state": "queued", "attempts": 1} | task | times)
    transact(database, lambda: [Task.insert(row).execute() for row in rows])


def ended(state: str, created: float, started: float | None, finished: float, **more: Any) -> dict[str, Any]:
    return {"state": state, "created_at": created, "started_at": started, "finished_at": finished, **more}


def count(database: peewee.Database) -> Rollup:
    """Count all that there is, as a worker that has just taken the loop."""
    rolled = Rollup(database)
    while rolled.advance():
        pass
    return rolled


def total(database: peewee.Database, span: int, **where: Any) -> Counts:
    rows = read(database, lambda: list(Figure.select().where(Figure.span == span).dicts()))
    chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return sum((Counts(*(row[name] for name in Counts.__slots__)) for row in chosen), Counts())


def test_every_span_counts_what_came_and_ended(database, at) -> None:  # type: ignore[no-untyped-def]
    add(
        database,
        ended("succeeded", -7000, -6990, -6980),
        ended("dead", -130, -120, -60, attempts=3),
        ended("succeeded", -200, -100, -70, scheduled_at=-110),
        ended("dead", -5000, -30, -20, revived_at=-40),
        ended("cancelled", -50, None, -10),
        {"created_at": -5, "owner": None, "queue": None, "priority": None},
    )
    at(30)
    count(database)
    for span in (MINUTE, TEN_MINUTES, HOUR):
        found = total(database, span)
        assert (found.accepted, found.succeeded, found.dead, found.cancelled) == (6, 2, 2, 1), span
        assert (found.retries, found.ran) == (2, 4)
        assert found.waiting_seconds == pytest.approx(10 + 10 + 10 + 10, abs=0.001)  # since its time, or its replay
        assert found.running_seconds == pytest.approx(10 + 60 + 30 + 10, abs=0.001)
    assert total(database, HOUR, owner="", queue="", priority="").accepted == 1
    at_noon = int(NOON.replace(tzinfo=dt.UTC).timestamp())
    assert total(database, MINUTE, since=at_noon - 60).dead == 2
    assert total(database, HOUR, since=at_noon - 2 * HOUR).succeeded == 1


def test_counting_again_changes_nothing_and_late_rows_count(database, at) -> None:  # type: ignore[no-untyped-def]
    add(database, ended("succeeded", -60, -50, -40), ended("dead", -60, -50, -40))
    first = count(database)
    before = total(database, MINUTE)
    for _ in range(3):
        first.advance()
        count(database)
    assert total(database, MINUTE) == before
    add(database, ended("succeeded", -100, -90, -30))  # its transaction was long
    first.advance()
    assert total(database, HOUR).succeeded == 2 and total(database, HOUR).accepted == 3


def test_a_replayed_or_deleted_task_stays_in_its_minute(database, at) -> None:  # type: ignore[no-untyped-def]
    add(database, ended("dead", -60, -50, -40), ended("succeeded", -60, -50, -40))
    rolled = count(database)
    transact(database, lambda: Task.update(state="queued", finished_at=None).where(Task.state == "dead").execute())
    transact(database, lambda: Task.delete().where(Task.state == "succeeded").execute())
    at(20)
    rolled.advance()
    assert (total(database, MINUTE).dead, total(database, HOUR).succeeded) == (1, 1)


def test_ends_that_are_recorded_hours_late_are_counted(database, at) -> None:  # type: ignore[no-untyped-def]
    """Redis was away: the position of the recorder stood still, and jumps over the late ends."""

    def recorded(seconds: float) -> None:
        moment = to_ms(NOON + dt.timedelta(seconds=seconds))
        transact(database, lambda: set_position(database, moment))

    recorded(-10)
    rolled = count(database)
    for hour in (1, 2, 3):
        at(hour * HOUR)
        while rolled.advance():
            pass
    add(database, ended("succeeded", 0, 10, HOUR))
    recorded(3 * HOUR)
    while rolled.advance():
        pass
    assert total(database, HOUR).succeeded == 1


def test_another_worker_goes_on_where_the_last_one_ended(database, at) -> None:  # type: ignore[no-untyped-def]
    add(database, *(ended("succeeded", -hour * HOUR, -hour * HOUR, -hour * HOUR + 9) for hour in range(1, 200, 3)))
    first = Rollup(database)
    for _ in range(12):  # some hours of the week
        assert first.advance()
    some = total(database, HOUR).succeeded
    count(database)
    whole = total(database, HOUR).succeeded
    assert 0 < some < whole == 56  # a week, and no more
    at(50 * HOUR)  # no worker ran for two days
    add(database, ended("succeeded", 20 * HOUR, 20 * HOUR, 21 * HOUR), ended("dead", HOUR, HOUR, 49 * HOUR))
    count(database)
    assert (total(database, HOUR).succeeded, total(database, HOUR).dead) == (57, 1)


def test_loops_that_overlap_leave_no_sum_short(database, database_url, at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Each writes another minute of one hour, and neither sees the other's before it sums."""
    add(database, ended("succeeded", -400, -400, -390), ended("succeeded", -300, -300, -290))
    other = open_database(database_url)
    first, second = Rollup(database), Rollup(other)
    minutes = [floor(to_ms(NOON) // 1000 - ago, MINUTE) for ago in (390, 290)]
    sums = first._sums
    beside = threading.Thread(target=second._count, args=(minutes[1], minutes[1] + MINUTE))

    def summed(*of: int) -> Any:
        found = sums(*of)
        if beside.ident is None:
            beside.start()
            beside.join(0.5)  # it ends if nothing holds it up
        return found

    monkeypatch.setattr(first, "_sums", summed)
    first._count(minutes[0], minutes[0] + MINUTE)
    beside.join()
    other.close_all()
    assert [total(database, span).succeeded for span in (MINUTE, TEN_MINUTES, HOUR)] == [2, 2, 2]


class Killed(BaseException):
    pass


def test_a_worker_killed_at_any_statement_leaves_no_sum_short(database, at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The recorder was behind, and jumps over late ends that the worker dies before it counts."""
    run, many = database.execute_sql, rollup.execute_many
    left = itertools.count()  # statements until the kill; each round one more

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def counts(*arguments: Any) -> Any:
            if next(left) == 0:
                raise Killed
            return work(*arguments)

        return counts

    for number in itertools.count():
        at(0)
        transact(database, lambda: [model.delete().execute() for model in (Task, Figure)])
        transact(database, lambda: Recorded.delete().execute())
        add(database, ended("succeeded", -7300, -7300, -7290))
        transact(database, lambda: set_position(database, to_ms(NOON)))
        rolled = count(database)
        at(3000)
        add(database, {"created_at": 2990})
        while rolled.advance():
            pass
        add(database, ended("dead", 100, 110, 120), ended("succeeded", 100, 110, 1500))  # recorded just now
        transact(database, lambda: set_position(database, to_ms(NOON) + 3_000_000))
        left = itertools.count(-number)
        killed = False
        with monkeypatch.context() as patch:
            patch.setattr(database, "execute_sql", counted(run))
            patch.setattr(rollup, "execute_many", counted(many))
            try:
                while rolled.advance():
                    pass
            except Killed:
                killed = True
        count(database)
        for span in (MINUTE, TEN_MINUTES, HOUR):
            found = total(database, span)
            assert (found.accepted, found.succeeded, found.dead) == (4, 2, 1), (number, span)
        if not killed:
            assert number > 10
            return


def test_rows_with_a_time_of_the_past_count_within_the_hour(database, at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rolled = count(database)
    add(database, ended("succeeded", -3 * HOUR, -3 * HOUR, -2 * HOUR))
    while rolled.advance():
        pass
    assert total(database, HOUR).accepted == 0
    rolled._resume_at = 0.0
    while rolled.advance():
        pass
    assert (total(database, HOUR).accepted, total(database, HOUR).succeeded) == (1, 1)


def test_a_slow_database_is_asked_for_fewer_minutes(database, at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rolled = count(database)
    rolled._minutes = 60
    monkeypatch.setattr(rollup, "_SLOW", -1.0)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(rolled, "_count", lambda since, until: asked.append((since, until)))
    at(10 * HOUR)
    while rolled.advance():
        pass
    assert asked[0][1] - asked[0][0] == HOUR and asked[-2][1] - asked[-2][0] == MINUTE
    assert all(before[1] == after[0] for before, after in itertools.pairwise(asked))


def test_rows_past_their_time_are_deleted(database, at) -> None:  # type: ignore[no-untyped-def]
    add(database, ended("succeeded", -60, -50, -40))
    count(database)
    spans = []
    for days in (0.5, 2, 9, 91):
        at(days * 24 * HOUR)
        rolled = Rollup(database)
        for _ in range(3):
            rolled._prune(to_ms(rollup.utcnow()) // 1000)
            rolled._prune_at = 0.0
        spans.append(sorted({row.span for row in read(database, lambda: list(Figure.select(Figure.span)))}))
    assert spans == [[MINUTE, TEN_MINUTES, HOUR], [TEN_MINUTES, HOUR], [HOUR], []]


def test_charts_have_every_step_and_only_the_callers_tasks(database, at) -> None:  # type: ignore[no-untyped-def]
    add(
        database,
        ended("dead", -60, -50, -40),
        ended("succeeded", -60, -50, -40, owner="crm", type="letter"),
        ended("succeeded", -5 * 86400, -5 * 86400, -5 * 86400 + 9),
    )
    at(10)
    count(database)
    asked = Figures(database)
    for name, steps, succeeded in (("hour", 60, 1), ("day", 144, 1), ("week", 168, 2)):
        chart = asked.chart(name)
        assert len(chart) == steps and sum(one.succeeded for one in chart.values()) == succeeded
        assert sum(one.accepted for one in asked.chart(name, owner="crm").values()) == 1
        assert sum(one.dead for one in asked.chart(name, owner="crm").values()) == 0
        assert sum(one.dead for one in asked.chart(name, type_name="mail").values()) == 1
    assert asked.chart("hour", owner="nobody") == dict.fromkeys(asked.chart("hour"), Counts())
    lately = asked.lately()
    assert lately["mail", "post", "normal"].failing == 1.0 and lately["letter", "post", "normal"].failing == 0.0
    assert asked.lately(owner="crm").keys() == {("letter", "post", "normal")}


def test_strange_rows_of_other_programs_stop_no_counting(database, at) -> None:  # type: ignore[no-untyped-def]
    add(database, ended("succeeded", -60, -50, -40), ended("dead", -30, 90, -20, attempts=0))
    if not is_mysql(database):  # SQLite takes any text
        sql = "INSERT INTO sytq_tasks (id, type, state, payload, created_at, finished_at) VALUES (?, ?, ?, ?, ?, ?)"
        moments = (("tomorrow", "2026-07-01 11:59:00"), ("2026-07-01 11:59:00", "2026-07-01 11:59:99"))
        for number, times in enumerate(moments):
            row = (str(number), "mail", "dead", "{}", *times)
            transact(database, lambda row=row: database.execute_sql(sql, row))  # type: ignore[misc]
    count(database)
    found = total(database, MINUTE, owner="shop")
    assert (found.succeeded, found.dead, found.retries, found.running_seconds) == (
        1,
        1,
        0,
        pytest.approx(10, abs=0.001),
    )


def test_reads_of_tasks_are_ranges_of_an_index(database, at, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    add(database, *(ended(state, -n, -n, -n) for n in range(0, 40_000, 80) for state in TERMINAL))
    with database.connection_context():
        database.execute_sql("ANALYZE TABLE sytq_tasks" if is_mysql(database) else "ANALYZE")
    seen: list[tuple[str, Any]] = []
    run = database.execute_sql

    def noted(sql: str, params: Any = None, *rest: Any) -> Any:
        seen.append((sql, params))
        return run(sql, params, *rest)

    rolled = Rollup(database)
    since = int(NOON.replace(tzinfo=dt.UTC).timestamp()) - 600
    monkeypatch.setattr(database, "execute_sql", noted)
    read(database, lambda: rolled._tasks(since, since + 600))
    monkeypatch.undo()
    assert len(seen) == 4
    for sql, params in seen:
        with database.connection_context():
            if is_mysql(database):
                plan = database.execute_sql(f"EXPLAIN {sql}", params).fetchone()
                assert plan[3] == "range" and int(plan[8]) < 100, plan
            else:
                plan = database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params).fetchone()
                assert "SEARCH sytq_tasks USING INDEX" in plan[3] and "_at>" in plan[3], plan
