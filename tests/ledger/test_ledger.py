"""The ledger on SQLite and on MySQL: one transaction each, and only legal changes."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq.errors import DatabaseUnavailable, Lost
from sytq.ids import derived_id, new_id
from sytq.ledger import migrations, steps
from sytq.ledger.database import is_mysql, open_database, transact
from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.migrations import migrate, pending
from sytq.ledger.models import Attempt, Task
from sytq.ledger.values import utcnow
from sytq.plugins import find
from sytq.service.recording import Recording
from tests.servers import MySQLServer, poll
from tests.tables import make_tables

MIGRATIONS = sorted(file.stem for file in Path(migrations.__file__).parent.glob("[0-9]*.py"))
LATER = dt.datetime(2030, 1, 2, 3, 4, 5, 678901)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    database = open_database(database_url)
    make_tables(database)
    database.bind([ValuationRecord])
    yield Ledger(database)
    database.close_all()


def new(**fields: object) -> NewTask:
    return NewTask(**{"id": new_id(), "type": "t", "queue": "q", "priority": "high", "payload": "{}"} | fields)  # type: ignore[arg-type]


def accepted(ledger: Ledger, **fields: object) -> str:
    task = new(**fields)
    ledger.accept([task])
    return task.id


def state(ledger: Ledger, task_id: str) -> str:
    row = ledger.get(task_id)
    assert row is not None
    return str(row.state)


def test_concurrent_migrations_run_once(database_url: str) -> None:
    databases = [open_database(database_url) for _ in range(4)]
    assert pending(databases[0]) == MIGRATIONS
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda d=d: applied.append(migrate(d))) for d in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], [], MIGRATIONS]
    assert pending(databases[0]) == []
    for database in databases:
        database.close_all()


def test_a_migration_behind_a_long_transaction_holds_nobody_up(mysql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_WAIT", 1)
    database, reader = open_database(mysql_url), open_database(mysql_url)
    make_tables(database)
    with database.connection_context():
        database.execute_sql("CREATE INDEX sytq_tasks_state_id ON sytq_tasks (state, id)")
        database.execute_sql("DELETE FROM sytq_migrations WHERE name = '0019_indexes'")
    done: list[list[str]] = []
    with reader.connection_context():
        with reader.atomic("REPEATABLE READ"):  # type: ignore[no-untyped-call]
            reader.execute_sql("SELECT COUNT(*) FROM sytq_tasks")
            thread = threading.Thread(target=lambda: done.append(migrate(database)))
            thread.start()
            waiting = (
                "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table metadata%%'"
            )
            poll(lambda: reader.execute_sql(waiting).fetchone()[0])
            Ledger(database).accept([new()])  # behind the migration, which lets it pass
            assert done == []
        thread.join()
    assert done == [["0019_indexes"]]
    with database.connection_context():
        assert "sytq_tasks_state_id" not in {index.name for index in database.get_indexes("sytq_tasks")}
    database.close_all()
    reader.close_all()


def test_unfinished_tasks_are_paged_by_state_and_time_each_once(ledger: Ledger) -> None:
    ids = [accepted(ledger) for _ in range(9)]
    with ledger.database.connection_context():
        for number, task_id in enumerate(ids):
            state = ("running", "queued", "retrying", "scheduled", "dead")[number % 5]
            moment = f"2026-01-01 00:00:00.{'1' if number < 5 else '100000'}"  # digits as other programs write them
            sql = f"UPDATE sytq_tasks SET state = '{state}', created_at = '{moment}' WHERE id = '{task_id}'"
            ledger.database.execute_sql(sql)
    for size in (1, 2, 3, 20):
        pages = [ledger.unfinished(None, size)]
        while len(pages[-1]) == size:
            pages.append(ledger.unfinished(pages[-1][-1], size))
        found = [task.id for page in pages for task in page]
        assert found == [ids[n] for n in (1, 6, 0, 5, 2, 7, 3, 8)]


def test_plugin_migrations_keep_existing_tables(database_url: str) -> None:
    database = open_database(database_url)
    make_tables(database)
    with database.connection_context():
        for table in ("sytq_migrations_llm", "sytq_migrations_webhook", "valuation_records"):
            database.execute_sql(f"DROP TABLE {table}")
        database.execute_sql("CREATE TABLE valuation_records (id BIGINT PRIMARY KEY, area VARCHAR(9))")
        database.execute_sql("INSERT INTO valuation_records VALUES (1, 'mine')")
        database.execute_sql("INSERT INTO sytq_budgets VALUES ('2026-07-01', 'provider:p', 5)")
        database.execute_sql("INSERT INTO sytq_failing_hosts VALUES ('host:h:443', '2026-07-01 00:00:00')")

    def found() -> list[object]:
        with database.connection_context():
            tables = ("valuation_records", "sytq_spend", "sytq_budgets", "sytq_failing_hosts")
            shape = [(database.get_columns(table), database.get_indexes(table)) for table in tables]
            return [shape, [database.execute_sql(f"SELECT * FROM {table}").fetchall() for table in tables]]

    before = found()
    plugins = find(()).plugins
    lacking = pending(database, plugins)
    assert set(lacking) == {"llm/0001_llm", "llm/0002_days", "webhook/0001_failing_hosts"}
    assert migrate(database, plugins) == lacking
    assert found() == before
    database.close_all()


def test_an_accepted_task_is_read_unchanged(ledger: Ledger) -> None:
    payload = json.dumps({"text": "价值 🙂 '\"\\ \u0001", "big": "x" * 300_000}, ensure_ascii=False)
    before = utcnow() - dt.timedelta(seconds=5)
    task_id = accepted(ledger, payload=payload, run_at=LATER, max_attempts=7, owner="me", parent=new_id())
    row = ledger.get(task_id)
    assert row is not None
    assert (row.payload, row.state, row.scheduled_at) == (payload, "scheduled", LATER)
    assert (row.max_attempts, row.owner, row.attempts, row.token) == (7, "me", 0, 0)
    assert before < row.created_at < utcnow() + dt.timedelta(seconds=5)  # the database's clock, in UTC


def test_a_batch_is_accepted_atomically(ledger: Ledger) -> None:
    good, bad = new(), new(type="x" * 100 if is_mysql(ledger.database) else None)
    with pytest.raises(peewee.PeeweeException):
        ledger.accept([good, bad])
    assert ledger.get(good.id) is None
    ledger.accept([good, good])
    assert ledger.find()[1] == 1


def test_also_writes_in_the_transaction_of_the_tasks(ledger: Ledger) -> None:
    task = new()
    ledger.accept([task], also=lambda: ValuationRecord.insert(id=-5, user_message="hi").execute())
    assert ValuationRecord.get_by_id(-5).user_message == "hi"
    with pytest.raises(peewee.IntegrityError):
        ledger.accept([new()], also=lambda: ValuationRecord.insert(id=-5).execute())
    assert ledger.find()[1] == 1


def test_find_counts_all_and_pages_newest_first(ledger: Ledger) -> None:
    ids = [accepted(ledger, queue="q" if n % 2 else "other") for n in range(7)]
    rows, total = ledger.find(queue="q", limit=2)
    assert ([row.id for row in rows], total) == ([ids[5], ids[3]], 3)
    assert [row.id for row in ledger.find(queue="q", limit=2, offset=2)[0]] == [ids[1]]
    assert ledger.find(states=("dead",)) == ([], 0)


def ended(task_id: str, token: int, word: str, **fields: object) -> Event:
    outcome = {"retrying": "failed", "queued": "returned"}.get(word, word)
    return Event(task_id, word, token, 1, "w", utcnow(), utcnow(), outcome=outcome, **fields)  # type: ignore[arg-type]


def record(ledger: Ledger, *events: Event) -> None:
    Recording({}, ledger, None).write(events)  # type: ignore[arg-type]


def test_the_recorder_writes_latest_state_and_each_attempt_once(ledger: Ledger) -> None:
    a, b = accepted(ledger), accepted(ledger)
    batch = [
        Event(a, "running", 1, 1, "w", started_at=utcnow()),
        ended(a, 1, "retrying", error="first", scheduled_at=LATER),
        Event(b, "running", 2, 1, "w", started_at=utcnow()),
        Event(a, "running", 3, 2, "w", started_at=utcnow()),
        ended(a, 3, "succeeded", result='{"n":1}'),
    ]
    for _ in range(2):  # an event that is delivered again changes nothing
        record(ledger, *batch)
        row = ledger.get(a)
        assert row is not None
        assert (row.state, row.result, row.token, row.error) == ("succeeded", '{"n":1}', 3, None)
        assert [(at.token, at.outcome, at.error) for at in ledger.attempts(a)] == [
            (1, "failed", "first"),
            (3, "succeeded", None),
        ]
        assert state(ledger, b) == "running"


def test_latest_history_is_the_end_of_the_whole_one(ledger: Ledger) -> None:
    task_id = new_id()
    row = {"task_id": task_id, "outcome": "failed", "started_at": utcnow()}
    transact(ledger.database, Attempt.insert_many([row | {"token": n, "attempt": n} for n in range(1, 8)]).execute)
    for count, shown, is_cut in ((3, [5, 6, 7], True), (7, [*range(1, 8)], False), (50, [*range(1, 8)], False)):
        found = ledger.latest_history(task_id, count)
        assert ([attempt.token for attempt in found.attempts], found.is_cut) == (shown, is_cut)


@pytest.mark.parametrize("end", ["succeeded", "dead", "cancelled"])
def test_p6_a_terminal_row_never_changes(ledger: Ledger, end: str) -> None:
    task_id = accepted(ledger)
    record(ledger, ended(task_id, 5, end))
    for change in (Event(task_id, "running", 9, 2), ended(task_id, 9, "retrying"), ended(task_id, 9, "dead")):
        record(ledger, change)
        assert state(ledger, task_id) == end


def test_p6_an_earlier_attempt_never_overwrites_a_later_one(ledger: Ledger) -> None:
    task_id = accepted(ledger)
    record(ledger, Event(task_id, "running", 9, 2, "later"))
    record(ledger, ended(task_id, 5, "succeeded"))
    row = ledger.get(task_id)
    assert row is not None
    assert (row.state, row.token, row.worker) == ("running", 9, "later")


def test_p6_a_stale_attempt_writes_nothing(ledger: Ledger) -> None:
    task_id = accepted(ledger)
    assert ledger.fenced(task_id, 5, lambda: "written") == "written"
    assert ledger.fenced(task_id, 5, lambda: "again") == "again"
    ledger.fenced(task_id, 6, lambda: None)
    with pytest.raises(Lost) as lost:
        ledger.fenced(task_id, 5, lambda: ValuationRecord.insert(id=1).execute())
    assert not lost.value.ended
    record(ledger, ended(task_id, 6, "dead"))
    with pytest.raises(Lost) as lost:
        ledger.fenced(task_id, 7, lambda: ValuationRecord.insert(id=1).execute())
    assert lost.value.ended
    assert ValuationRecord.select().count() == 0


def test_p4_a_step_runs_once_and_an_interrupted_step_is_on_record(ledger: Ledger) -> None:
    task_id = accepted(ledger)
    assert ledger.begin_step(task_id, 1, "s").state == "started"
    assert ledger.begin_step(task_id, 1, "s").interrupted == 0  # the same start, a repeated transaction
    again = ledger.begin_step(task_id, 2, "s")
    assert (again.state, again.interrupted) == ("started", 1)
    with pytest.raises(Lost):
        ledger.finish_step(task_id, 1, "s", '"late"')
    ledger.finish_step(task_id, 2, "s", '"value"')
    done = ledger.begin_step(task_id, 3, "s")
    assert (done.state, done.value, done.interrupted) == ("done", '"value"', 1)
    ledger.begin_step(task_id, 3, "failed")
    ledger.forget_step(task_id, 3, "failed")
    assert [step.name for step in ledger.steps(task_id)] == ["s"]


def test_p4_failed_call_does_not_hide_that_one_before_it_was_interrupted(ledger: Ledger) -> None:
    task_id = accepted(ledger)
    ledger.begin_step(task_id, 1, "s")
    assert ledger.begin_step(task_id, 2, "s").interrupted == 1  # the first attempt may have been charged
    ledger.forget_step(task_id, 2, "s")  # the second was answered with an error
    assert ledger.begin_step(task_id, 3, "s").interrupted == 1
    assert ledger.begin_step(task_id, 4, "s").interrupted == 2


def test_p3_what_is_marked_is_written_once_with_the_result_or_after_it(ledger: Ledger) -> None:
    task_id, ends = accepted(ledger), []

    def finish(token: int, name: str) -> None:
        ledger.finish_step(
            task_id, token, name, '"value"', lambda: ends.append("also"), lambda: ends.append("end"), "m"
        )

    ledger.begin_step(task_id, 2, "s")
    finish(2, "s")
    assert ends == ["also", "end"]
    finish(2, "s")  # its COMMIT may have been answered with silence
    ledger.begin_step(task_id, 3, "another")
    finish(3, "another")
    assert ends[2:] == ["also", "also"]
    assert not ledger.fenced(task_id, 3, lambda: steps.mark(ledger.database, task_id, 3, "m"))
    assert ledger.fenced(task_id, 3, lambda: steps.mark(ledger.database, task_id, 3, "n"))
    assert {(step.name, step.state, step.value) for step in ledger.steps(task_id)} == {
        ("s", "done", '"value"'), ("another", "done", '"value"'), ("m", "done", "null"), ("n", "done", "null")
    }  # fmt: skip
    record(ledger, ended(task_id, 3, "dead"))
    with pytest.raises(Lost) as lost:
        finish(4, "late")
    assert lost.value.ended


def test_p4_mark_replaces_no_result(ledger: Ledger) -> None:
    task_id = accepted(ledger)
    for name, mark in (("paid", None), ("another", "paid")):
        ledger.begin_step(task_id, 1, name)
        ledger.finish_step(task_id, 1, name, f'"{name}"', end=lambda: None, mark=mark)
    assert {step.name: step.value for step in ledger.steps(task_id)} == {"paid": '"paid"', "another": '"another"'}


def test_p6_no_later_attempt_slips_in_while_a_result_is_written(mysql_url: str) -> None:
    database, other = open_database(mysql_url), open_database(mysql_url)
    make_tables(database)
    ledger = Ledger(database)
    task_id = accepted(ledger)
    ledger.begin_step(task_id, 1, "s")
    look = f"SELECT id FROM sytq_tasks WHERE id = '{task_id}' FOR UPDATE NOWAIT"

    def slip_in() -> None:
        with other.connection_context(), pytest.raises(peewee.OperationalError, match=r"Lock wait|NOWAIT"):
            other.execute_sql(look)

    ledger.finish_step(task_id, 1, "s", '"value"', slip_in)
    assert [step.state for step in ledger.steps(task_id)] == ["done"]


def test_a_deadlock_repeats_the_whole_transaction(mysql_url: str) -> None:
    database = open_database(mysql_url)
    make_tables(database)
    ledger = Ledger(database)
    a, b = accepted(ledger), accepted(ledger)
    barrier, runs = threading.Barrier(2), []

    def swap(first: str, second: str) -> None:
        def work() -> None:
            runs.append(first)
            Task.update(worker="x").where(Task.id == first).execute()
            if len(runs) <= 2:
                barrier.wait(40)  # both hold their first row now
            Task.update(worker="x").where(Task.id == second).execute()

        transact(database, work)

    threads = [threading.Thread(target=swap, args=pair) for pair in ((a, b), (b, a))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(runs) == 3
    database.close_all()


def test_an_unreachable_database_raises_database_unavailable(own_mysql: MySQLServer) -> None:
    database = open_database(own_mysql.create_database("gone"), timeout=2)
    migrate(database)
    ledger = Ledger(database)
    task_id = accepted(ledger)
    own_mysql.kill()
    for call in (lambda: ledger.get(task_id), lambda: ledger.accept([new()])):
        with pytest.raises(DatabaseUnavailable):
            call()
    own_mysql.start()
    assert ledger.get(task_id) is not None  # the pool recovers by itself
    database.close_all()


def test_a_locked_sqlite_raises_database_unavailable(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    one, two = open_database(url), open_database(url, timeout=0.05)
    migrate(one)
    ledger = Ledger(two)
    with one.connection_context(), one.atomic(), pytest.raises(DatabaseUnavailable):
        ledger.accept([new()])
    ledger.accept([new()])


def test_ids_sort_by_time_and_derived_ids_are_stable() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert all(id[14] == "7" and id[19] in "89ab" for id in ids)
    assert derived_id(ids[0], "x") == derived_id(ids[0], "x") != derived_id(ids[0], "y")
