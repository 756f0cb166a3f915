"""The SQL that records many events at once: fenced, idempotent, the same in one batch and in many."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sytq.ids import new_id
from sytq.ledger.database import open_database, transact
from sytq.ledger.ends import end
from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Attempt, Task, UniqueKey
from sytq.ledger.values import from_ms, to_ms
from sytq.service.recording import Recording
from tests.tables import make_tables

AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    database = open_database(database_url)
    make_tables(database)
    yield Ledger(database)
    database.close_all()


def record(ledger: Ledger, events: Sequence[Event], *, again: bool = False) -> None:
    Recording({}, ledger, None).write(events, again=again)  # type: ignore[arg-type]


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


#: The token of an attempt that starts at AT.
TOKEN = to_ms(AT)


def rows(ledger: Ledger, task_id: str) -> list[Attempt]:
    with ledger.database.connection_context():
        return list(Attempt.select().where(Attempt.task_id == task_id))


def test_what_succeeds_at_once_has_no_row_for_its_last_attempt(ledger: Ledger) -> None:
    def life(task_id: str) -> list[Event]:
        first = [start(task_id, TOKEN - 9), ended(task_id, TOKEN - 9, "retrying")]
        return [*first, start(task_id, TOKEN, 2), ended(task_id, TOKEN, "succeeded", 2)]

    together, apart = accepted(ledger, 2)
    record(ledger, life(together))
    for event in life(apart):
        record(ledger, [event])
    assert [len(rows(ledger, task)) for task in (together, apart)] == [1, 2]
    assert shown(ledger, together) == shown(ledger, apart)
    found = ledger.histories([together, apart])
    assert [[at.token for at in found[task].attempts] for task in (together, apart)] == [[TOKEN - 9, TOKEN]] * 2
    for task in (together, apart):
        latest = ledger.latest_history(task, 1)
        assert ([at.token for at in latest.attempts], latest.is_cut) == ([TOKEN], True)
        assert not ledger.latest_history(task, 2).is_cut


@pytest.mark.parametrize(
    "more", [{"error": "x"}, {"status": 200}, {"detail": "{}"}, {"scheduled_at": AT}, {"state": "dead"}]
)
def test_an_attempt_of_which_there_is_more_to_say_has_a_row(ledger: Ledger, more: dict[str, Any]) -> None:
    (task,) = accepted(ledger)
    record(ledger, [start(task, TOKEN), replace(ended(task, TOKEN, "succeeded"), **more)])
    (row,) = rows(ledger, task)
    assert (row.error, row.status, row.detail, row.next_at) == tuple(
        more.get(name) for name in ("error", "status", "detail", "scheduled_at")
    )


@pytest.mark.parametrize("began", [AT - dt.timedelta(milliseconds=1), None])
def test_an_attempt_whose_token_is_not_its_start_has_a_row(ledger: Ledger, began: dt.datetime | None) -> None:
    (task,) = accepted(ledger)
    record(ledger, [replace(start(task, TOKEN), started_at=began), ended(task, TOKEN, "succeeded", started_at=None)])
    assert [row.started_at for row in rows(ledger, task)] == [began]
    assert [at.started_at for at in ledger.attempts(task)] == [began]


def test_an_end_that_its_task_does_not_take_has_a_row(ledger: Ledger) -> None:
    task, cancelled = accepted(ledger, 2)
    record(ledger, [start(task, TOKEN), ended(task, TOKEN, "succeeded")])
    record(ledger, [ended(cancelled, 0, "cancelled")])
    again = from_ms(TOKEN + 1)  # Redis had lost the end, and the task ran once more
    for later in (task, cancelled):
        begun = replace(start(later, TOKEN + 1), started_at=again)
        record(ledger, [begun, ended(later, TOKEN + 1, "succeeded")])
    assert [(at.token, at.started_at) for at in ledger.attempts(task)] == [(TOKEN, AT), (TOKEN + 1, again)]
    assert [(at.token, at.outcome) for at in ledger.attempts(cancelled)] == [(TOKEN + 1, "succeeded")]


def test_a_start_recorded_again_changes_no_attempt_without_a_row(ledger: Ledger) -> None:
    (task,) = accepted(ledger)
    record(ledger, [start(task, TOKEN), ended(task, TOKEN, "succeeded")])
    before = shown(ledger, task)
    record(ledger, [start(task, TOKEN)])
    assert shown(ledger, task) == before
    record(ledger, [start(task, TOKEN + 1, again=True)])  # Redis had lost the end
    assert shown(ledger, task)[-1][:1] == before[-1]  # type: ignore[index]
    record(ledger, [ended(task, TOKEN, "succeeded")])
    assert shown(ledger, task)[-1][:1] == before[-1]  # type: ignore[index]


def test_an_end_recorded_again_with_its_start_ends_the_row_of_that(ledger: Ledger) -> None:
    (task,) = accepted(ledger)
    record(ledger, [start(task, TOKEN)])  # then the database loses what came after, and all is read again
    record(ledger, [start(task, TOKEN), ended(task, TOKEN, "succeeded")], again=True)
    assert [row.outcome for row in rows(ledger, task)] == ["succeeded"]


@pytest.mark.parametrize("token", [0, 10**18])
def test_a_row_of_another_program_has_no_attempt_without_a_time(ledger: Ledger, token: int) -> None:
    (task,) = accepted(ledger)
    with ledger.database.connection_context():
        Task.update(state="succeeded", attempts=1, token=token).where(Task.id == task).execute()
    assert ledger.attempts(task) == []


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
