"""The SQL that records many events at once: fenced, idempotent, the same in one batch and in many."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import pytest

from sytq.ids import new_id
from sytq.ledger.database import open_database, transact
from sytq.ledger.ends import end
from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import UniqueKey
from sytq.service.recording import Recording
from tests.tables import make_tables

AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    database = open_database(database_url)
    make_tables(database)
    yield Ledger(database)
    database.close_all()


def record(ledger: Ledger, events: Sequence[Event]) -> None:
    Recording({}, ledger, None).write(events)  # type: ignore[arg-type]


def accepted(ledger: Ledger, count: int = 1) -> list[str]:
    new = [NewTask(new_id(), "t", "q", "high", "{}") for _ in range(count)]
    return [task.id for task in ledger.accept(new)]


def start(task_id: str, token: int, attempts: int = 1, *, again: bool = False) -> Event:
    return Event(task_id, "running", token, attempts, "w", started_at=AT, again=again)


def ended(task_id: str, token: int, state: str, attempts: int = 1, started_at: dt.datetime | None = AT) -> Event:
    outcome = {"retrying": "failed", "queued": "lost"}.get(state, state)
    finished = AT + dt.timedelta(seconds=1)
    return Event(
        task_id, state, token, attempts, "w", started_at=started_at, finished_at=finished, outcome=outcome, host="h"
    )


def shown(ledger: Ledger, task_id: str) -> tuple[object, ...]:
    row = ledger.get(task_id)
    assert row is not None
    attempts = [
        (at.token, at.attempt, at.outcome, at.worker, at.started_at, at.finished_at) for at in ledger.attempts(task_id)
    ]
    return row.state, row.token, row.worker, row.started_at, row.finished_at, row.host, attempts


def test_one_batch_writes_what_a_batch_for_each_event_writes(ledger: Ledger) -> None:
    def life(task_id: str) -> list[Event]:
        return [
            start(task_id, 1),
            ended(task_id, 1, "retrying"),
            start(task_id, 2, 2),  # its worker dies
            start(task_id, 3, 2, again=True),
            ended(task_id, 3, "succeeded", 2),
        ]

    together, apart = accepted(ledger, 2)
    record(ledger, life(together))
    for event in life(apart):
        record(ledger, [event])
    assert shown(ledger, together) == shown(ledger, apart)
    assert [attempt.outcome for attempt in ledger.attempts(apart)] == ["failed", "lost", "succeeded"]


def test_an_attempt_began_when_its_start_says_however_it_is_recorded(ledger: Ledger) -> None:
    together, apart = accepted(ledger, 2)
    later = AT + dt.timedelta(seconds=4)  # by the worker's clock, or once a thread was free
    record(ledger, [start(together, 1), ended(together, 1, "succeeded", started_at=later)])
    for event in (start(apart, 1), ended(apart, 1, "succeeded", started_at=later)):
        record(ledger, [event])
    assert [ledger.attempts(task)[0].started_at for task in (together, apart)] == [AT, AT]


def test_an_end_that_does_not_know_its_start_takes_its_time(ledger: Ledger) -> None:
    (task_id,) = accepted(ledger)
    record(ledger, [start(task_id, 1), ended(task_id, 1, "queued", started_at=None)])
    (attempt,) = ledger.attempts(task_id)
    assert (attempt.outcome, attempt.started_at) == ("lost", AT)


def test_a_start_that_is_read_again_changes_no_end(ledger: Ledger) -> None:
    (task_id,) = accepted(ledger)
    record(ledger, [start(task_id, 1), ended(task_id, 1, "retrying")])
    before = ledger.attempts(task_id)
    record(ledger, [start(task_id, 1)])
    assert [at.__data__ for at in ledger.attempts(task_id)] == [at.__data__ for at in before]


@pytest.mark.parametrize("count", [1, 8, 49])
def test_p6_starts_of_one_fetch_are_fenced_each(ledger: Ledger, count: int) -> None:
    ids = accepted(ledger, count + 2)
    *running, ended_before, later = ids
    record(ledger, [ended(ended_before, 1, "succeeded"), start(later, 9, 2)])
    record(ledger, [start(task_id, 5) for task_id in ids])
    rows = ledger.some(ids)
    assert {(rows[task_id].state, rows[task_id].token, rows[task_id].worker) for task_id in running} == {
        ("running", 5, "w")
    }
    assert (rows[ended_before].state, rows[ended_before].token) == ("succeeded", 1)
    assert (rows[later].token, rows[later].attempts) == (9, 2)


def test_only_ended_tasks_free_their_keys_and_only_what_is_left_to_do_is_read(ledger: Ledger) -> None:
    def new(key: str | None = None, callback: str | None = None, after: tuple[str, ...] = ()) -> NewTask:
        return NewTask(new_id(), "t", "q", "high", "{}", unique_key=key, callback=callback, after=after)

    plain, keyed, running, called_back, awaited = (
        *(new(), new("a"), new("b"), new(callback='{"url": "https://example.com/"}'), new()),
    )
    ledger.accept([plain, keyed, running, called_back, awaited, new(after=(awaited.id,))])
    ids = [task.id for task in (plain, keyed, running, called_back, awaited)]
    with ledger.database.connection_context():
        ledger.database.execute_sql("UPDATE sytq_tasks SET state = 'succeeded' WHERE held IS NULL")
        ledger.database.execute_sql("UPDATE sytq_tasks SET state = 'running' WHERE unique_key = 'b'")
    assert transact(ledger.database, lambda: end(ledger.database, ids)) == ([called_back.id], [awaited.id])
    assert transact(ledger.database, lambda: [row.unique_key for row in UniqueKey.select()]) == ["b"]
