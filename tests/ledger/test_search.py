"""Lists of the ledger are read from an index in their order: a page costs the same among ten rows and ten million."""

from __future__ import annotations

import datetime as dt
import itertools

import peewee
import pytest

from sytq.ids import new_id
from sytq.ledger.database import is_mysql, open_database, transact
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.search import Count, Search
from sytq.ledger.values import utcnow
from sytq.states import STATES, TERMINAL, UNFINISHED

#: Filters of lists: states, type, queue.
ASKED = list(
    itertools.product([STATES, UNFINISHED, TERMINAL, *((state,) for state in STATES)], ["t1", None], ["q1", None])
)


@pytest.fixture
def database(database: peewee.Database) -> peewee.Database:
    """With 6,000 tasks."""
    start = utcnow() - dt.timedelta(days=1)
    rows = []
    for n in range(6000):
        state, at = STATES[n % len(STATES)], start + dt.timedelta(seconds=n)
        ended = at if state in TERMINAL else None
        row = {"id": new_id(), "type": f"t{n % 3}", "queue": f"q{n % 2}", "state": state, "payload": "{}"}
        rows.append(row | {"created_at": at, "finished_at": ended})
    for part in range(0, len(rows), 500):
        transact(database, Task.insert_many(rows[part : part + 500]).execute)
    with database.connection_context():
        database.execute_sql("ANALYZE TABLE sytq_tasks" if is_mysql(database) else "ANALYZE")
    return database


def selects(database: peewee.Database, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """The SELECT statements run from now on."""
    seen: list[tuple[str, object]] = []
    run = database.execute_sql

    def noted(sql: str, params: object = None, *rest: object) -> object:
        if sql.startswith("SELECT"):
            seen.append((sql, params))
        return run(sql, params, *rest)

    monkeypatch.setattr(database, "execute_sql", noted)
    return seen


def plan(database: peewee.Database, sql: str, params: object) -> str:
    explain = "EXPLAIN" if is_mysql(database) else "EXPLAIN QUERY PLAN"
    with database.connection_context():
        return str(database.execute_sql(f"{explain} {sql}", params).fetchall())


def test_lists_are_read_from_an_index_without_sorting(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = selects(database, monkeypatch)
    for states, type_name, queue in ASKED:
        terms = {"state": ",".join(states), "type": type_name, "queue": queue}
        wanted = parse(" ".join(f"{field}:{value}" for field, value in terms.items() if value))
        page = Search(database).page(wanted, limit=20)
        assert len(page.tasks) == 20
        Search(database).page(wanted, limit=20, after=page.next)
    for states, queue in itertools.product([(), *((state,) for state in STATES)], ["q1", None]):
        assert len(Ledger(database).find(states=states, queue=queue, limit=20)[0]) == 20
    Ledger(database).newcomers(utcnow() - dt.timedelta(days=2), "", 20)
    lists = [statement for statement in seen if "ORDER BY" in statement[0]]
    assert len(lists) > 150
    for sql, params in lists:
        found = plan(database, sql, params)
        assert "filesort" not in found and "TEMP B-TREE" not in found, f"{sql} {params}: {found}"


def test_a_task_that_changes_during_a_read_is_listed_once(
    database: peewee.Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, early = new_id(), new_id()
    rows = [{"id": late, "state": STATES[0]}, {"id": early, "state": STATES[2]}]
    transact(database, Task.insert_many([row | {"type": "moving", "payload": "{}"} for row in rows]).execute)
    other = open_database(database_url)
    run = database.execute_sql

    def swapped(sql: str, params: object = None, *rest: object) -> object:
        """After the first statement one task leaves the state that was read, and another enters it."""
        done = run(sql, params, *rest)
        if sql.startswith("SELECT") and "sytq_tasks" in sql:
            monkeypatch.setattr(database, "execute_sql", run)
            for task_id, state in ((late, STATES[2]), (early, STATES[0])):
                with other.atomic():
                    other.execute_sql(f"UPDATE sytq_tasks SET state = '{state}' WHERE id = '{task_id}'")
        return done

    history, wanted = Search(database), parse("type:moving")
    for look, expected in (
        (lambda: sorted(task.id for task in history.page(wanted, limit=10).tasks), sorted((late, early))),
        (lambda: history.count(wanted), Count(2)),
        (lambda: sorted(history.matching(wanted, [late, early])), sorted((late, early))),
    ):
        for task_id, state in ((late, STATES[0]), (early, STATES[2])):
            with other.atomic():
                other.execute_sql(f"UPDATE sytq_tasks SET state = '{state}' WHERE id = '{task_id}'")
        monkeypatch.setattr(database, "execute_sql", swapped)
        assert look() == expected
    other.close_all()
