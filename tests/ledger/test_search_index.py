"""A search finds the same tasks in the same order with the index, without it, and while it is being made."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peewee
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sytq.errors import InvalidQuery
from sytq.ids import new_id
from sytq.ledger import search, slices
from sytq.ledger.completion import Completion
from sytq.ledger.database import transact
from sytq.ledger.deletion import delete_ended
from sytq.ledger.models import SearchEntry, SearchProgress, Task
from sytq.ledger.query import Filter, parse
from sytq.ledger.search import Count, Search
from sytq.ledger.search_upkeep import SearchUpkeep
from sytq.ledger.search_values import kept
from sytq.ledger.values import utcnow
from sytq.states import STATES, TERMINAL
from tests.ledger.query.test_sql import CONDITIONS, JSON_VALUES, KEYS, NOW, ROWS, matches

TIMES = ("created_at", "scheduled_at", "started_at", "finished_at", "revived_at")
FIELDS = ("payload.a", "payload.a.b", "payload.\u4e2d")


def values(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the ledger writes it."""
    times = {name: row.get(name) and peewee.Value(_text(row[name]), converter=False) for name in TIMES}
    return row | {name: moment for name, moment in times.items() if moment or name != "created_at"}


def _text(moment: dt.datetime) -> str:
    return moment.isoformat(" ", "microseconds")


def add(database: peewee.Database, row: dict[str, Any], task_id: str = "") -> str:
    task_id = task_id or new_id()
    transact(database, Task.insert(id=task_id, **values({"type": "plain", "payload": "{}"} | row)).execute)
    return task_id


def keep(upkeep: SearchUpkeep, fields: tuple[str, ...] = FIELDS, most: int = 500) -> None:
    """Bring the index to its end."""
    upkeep.declare(fields)
    while upkeep.index_new(most):
        pass
    while upkeep.fill(most):
        pass


def listed(search: Search, wanted: Filter, size: int = 3) -> Iterator[list[str]]:
    """The ids of pages that look at one slice each, as a search does that has run out of time."""
    after = None
    while True:
        page = search.page(wanted, limit=size, after=after, seconds=0)
        assert (page.searched_to is None) or (page.next is not None and len(page.tasks) < size)
        yield [task.id for task in page.tasks]
        if page.next is None:
            return
        after = page.next


def expected(made: dict[str, dict[str, Any]], wanted: Filter) -> list[str]:
    moment = "finished_at" if set(wanted.states) <= set(TERMINAL) else "created_at"
    found = [(row[moment], task_id) for task_id, row in made.items() if matches(row, wanted)]
    return [task_id for _, task_id in sorted(found, reverse=True)]


def parsed(query: str) -> Filter | None:
    try:
        return parse(query).at(NOW)
    except InvalidQuery:
        return None


def equals(name: str) -> st.SearchStrategy[str]:
    listed = st.lists(JSON_VALUES.filter(lambda text: text != "*"), min_size=1, max_size=2)
    return listed.map(lambda texts: f"{name}:{','.join(texts)}")


INDEXED = st.one_of(
    st.sampled_from(FIELDS).flatmap(equals),
    KEYS.flatmap(lambda key: equals(f"metadata.{key}")),
    st.sampled_from(["owner:plain", "owner:webhook,other"]),
)
OTHERS = st.tuples(st.sampled_from(["", "-"]), CONDITIONS).map(lambda t: f"{t[0]}{t[1][0]}:{t[1][1]}{t[1][2]}")
QUERIES = (
    st.tuples(INDEXED, st.lists(INDEXED | OTHERS, max_size=2))
    .map(lambda pair: parsed(" ".join([pair[0], *pair[1]])))
    .filter(lambda wanted: wanted is not None)
)


#: Without shrinking: what a step does depends on those before it.
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_a_search_lists_what_a_plain_evaluation_lists(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(search, "_FIRST", 2)
    monkeypatch.setattr(slices, "_MANY", data.draw(st.sampled_from([2, 5000]), "many"))
    with database.connection_context(), database.atomic():
        for model in (Task, SearchEntry, SearchProgress):
            model.delete().execute()
    look, upkeep, made, numbers = Search(database), SearchUpkeep(database), {}, itertools.count()
    later = utcnow() + dt.timedelta(hours=1)  # behind the head, whatever it is

    def put(row: dict[str, Any]) -> None:
        made[add(database, row, f"{next(numbers):04d}")] = row

    for row in data.draw(st.lists(ROWS, min_size=1, max_size=8), "old rows"):
        put(row)
    steps = {
        "declare": lambda: upkeep.declare(data.draw(st.sampled_from([FIELDS, FIELDS[:1]]))),
        "fill": lambda: upkeep.fill(2),
        "new": lambda: upkeep.index_new(2),
        "verify": lambda: upkeep.verify(3),
        "sweep": lambda: upkeep.sweep(3),
    }
    for number in range(3):
        for step in data.draw(st.lists(st.sampled_from(sorted(steps)), max_size=5), "steps"):
            steps[step]()
        wanted = data.draw(QUERIES, "query")
        pages, seen, touched = listed(look, wanted), [], set()
        before = expected(made, wanted)
        change = data.draw(st.sampled_from(["nothing", "insert", "delete", "end"]), "change")
        for page in pages:
            seen += page
            if change == "insert":
                put(data.draw(ROWS) | {"created_at": later + dt.timedelta(seconds=number)})
                touched.add(list(made)[-1])
            elif made and change != "nothing":
                task_id = data.draw(st.sampled_from(sorted(made)))
                touched.add(task_id)
                if change == "delete":
                    del made[task_id]
                    transact(database, Task.delete().where(Task.id == task_id).execute)
                else:
                    ended = {"state": "dead", "finished_at": NOW}
                    made[task_id] = made[task_id] | ended
                    transact(database, Task.update(values(ended)).where(Task.id == task_id).execute)
            change = "nothing"
        assert len(seen) == len(set(seen))
        assert [one for one in seen if one not in touched] == [one for one in before if one not in touched], wanted.text
        now = expected(made, wanted)
        assert look.count(wanted, seconds=60) == Count(len(now))
        assert [one for page in look.pages(wanted, size=3) for one in (task.id for task in page)] == now


def statements(database: peewee.Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    run = database.execute_sql

    def noted(sql: str, *rest: object) -> object:
        seen.append(sql)
        return run(sql, *rest)

    monkeypatch.setattr(database, "execute_sql", noted)
    return seen


def test_a_search_by_an_indexed_value_reads_only_tasks_with_it(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [add(database, {"payload": json.dumps({"a": n // 2}), "state": STATES[n % 7]}) for n in range(60)]
    keep(SearchUpkeep(database))
    seen = statements(database, monkeypatch)
    page = Search(database).page(parse("payload.a:7"), limit=20)
    assert ({task.id for task in page.tasks}, page.next) == (set(ids[14:16]), None)
    (reads,) = [sql for sql in seen if "priority" in sql]
    assert " IN (" in reads


def test_a_task_of_another_program_is_found_at_once_and_indexed(database: peewee.Database) -> None:
    upkeep, look = SearchUpkeep(database), Search(database)
    keep(upkeep)
    database.execute_sql("INSERT INTO sytq_tasks (id, type, payload) VALUES ('own-id-1', 'x', '{\"a\": \"v\"}')")
    assert look.count(parse("payload.a:v"), seconds=60) == Count(1)
    upkeep.index_new(500)
    assert SearchEntry.select().where(SearchEntry.task_id == "own-id-1").count() == 2
    assert look.count(parse("payload.a:v"), seconds=60) == Count(1)


@pytest.mark.parametrize("fields", [(), FIELDS])
def test_tasks_without_metadata_and_fields_are_indexed_by_the_database_alone(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch, fields: tuple[str, ...]
) -> None:
    upkeep = SearchUpkeep(database)
    keep(upkeep, fields)
    owners = ["", "shop", "s" * 60]
    if not isinstance(database, peewee.MySQLDatabase):  # there the column has an end
        owners += ["s" * 81, "\u4e2d" * 40]
    ids = [add(database, {"owner": owner or None}) for owner in owners]
    read, make = set[str](), SearchUpkeep._entries

    def entries(*arguments: Any) -> Any:
        found = make(*arguments)
        read.update(task_id for *_, task_id in found)
        return found

    monkeypatch.setattr(SearchUpkeep, "_entries", entries)
    assert not upkeep.index_new(500)
    long = {one for one, owner in zip(ids, owners, strict=True) if len(owner) > 80}
    assert read == long, "the database makes the entries of the others"
    found = [(row.task_id, row.name, row.value) for row in SearchEntry.select()]
    assert sorted(found) == sorted((one, "owner", kept(owner)) for one, owner in zip(ids, owners, strict=True))
    assert Search(database).count(parse(f"owner:{'s' * 60}"), seconds=60) == Count(1)


def test_a_task_is_read_at_once_and_when_its_transaction_is_over(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep, moment = SearchUpkeep(database), Search(database).now()
    monkeypatch.setattr(Search, "now", lambda _: moment)

    def index(seconds: float, *created: float) -> int:
        nonlocal moment
        for second in created:
            add(database, {"created_at": moment + dt.timedelta(seconds=second)})
        moment += dt.timedelta(seconds=seconds)
        while upkeep.index_new(2):
            pass
        return SearchEntry.select().count()

    keep(upkeep, ())
    assert index(1, 0.3, 0.4, 0.5) == 3
    assert index(1, 0.1) == 4
    assert index(1, -1.1, -1.5) == 4, "they were committed late: only what moves the head finds them"
    assert index(8) == 4
    assert index(5) == 6
    head = SearchProgress.get(SearchProgress.name == "").moment
    assert _text(moment - dt.timedelta(seconds=15)) <= head <= _text(moment - dt.timedelta(seconds=10))


@pytest.mark.parametrize("fields", [(), FIELDS])
def test_a_task_committed_while_entries_are_made_has_all_of_its_own_or_none(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch, fields: tuple[str, ...]
) -> None:
    """The entries are read by one statement and the owners' by another: a commit may come between the two."""
    upkeep, look = SearchUpkeep(database), Search(database)
    keep(upkeep, fields)
    read = upkeep._entries

    def late(*of: Any) -> Any:
        found = read(*of)
        add(database, {"owner": "shop", "metadata": '{"k": "v"}', "payload": '{"a": "v"}'})
        return found

    monkeypatch.setattr(upkeep, "_entries", late)
    upkeep.index_new(500)
    for query in "owner:shop", "metadata.k:v", "payload.a:v":
        assert look.count(parse(query), seconds=60) == Count(1), query


def test_a_round_that_lasts_long_passes_no_late_commit(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep, moment = SearchUpkeep(database), Search(database).now()
    monkeypatch.setattr(Search, "now", lambda _: moment)
    keep(upkeep, ())
    for second in range(60):  # there are always more
        moment += dt.timedelta(seconds=1)
        for _ in range(2):
            add(database, {"created_at": moment - dt.timedelta(seconds=0.5)})
        if second == 20:
            late = add(database, {"created_at": moment - dt.timedelta(seconds=3)})
        upkeep.index_new(2)
    while upkeep.index_new(2):
        pass
    assert SearchEntry.select().where(SearchEntry.task_id == late).count() == 1
    head = SearchProgress.get(SearchProgress.name == "").moment
    assert head >= _text(moment - dt.timedelta(seconds=30)), "it moves all the same"


def test_a_task_committed_late_with_an_earlier_time_is_found_after_a_look(database: peewee.Database) -> None:
    upkeep, look = SearchUpkeep(database), Search(database)
    keep(upkeep)
    late = add(database, {"payload": '{"a": 1}', "created_at": NOW})
    upkeep.index_new(500)
    assert look.count(parse("payload.a:1"), seconds=60) == Count(0)
    upkeep.verify(500)
    assert [task.id for task in look.page(parse("payload.a:1"), limit=5).tasks] == [late]


def test_two_workers_that_fill_at_once_index_each_task_once(database: peewee.Database) -> None:
    """As they may for a moment, when one has stalled: neither fails, and nothing is left out."""
    old = utcnow() - dt.timedelta(days=1)
    ids = {
        add(database, {"payload": json.dumps({"a": n}), "metadata": '{"b": "c"}', "created_at": old}) for n in range(80)
    }
    SearchUpkeep(database).declare(FIELDS)
    begin = threading.Barrier(2)

    def work() -> None:
        upkeep = SearchUpkeep(database)
        begin.wait()
        while upkeep.fill(5):
            upkeep.index_new(5)
            upkeep.verify(20)
            upkeep.sweep(20)

    with ThreadPoolExecutor(2) as pool:
        made = [add(database, {"payload": '{"a": "new"}'}) for _ in range(10)]
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()
    keep(SearchUpkeep(database))
    entries = sorted((row.name, row.task_id) for row in SearchEntry.select())
    named = {"owner": ids | set(made), "metadata.b": ids, "payload.a": ids | set(made)}
    assert entries == sorted((name, one) for name, those in named.items() for one in those)


def test_tasks_of_one_moment_are_all_found_while_they_are_indexed(database: peewee.Database) -> None:
    upkeep, look = SearchUpkeep(database), Search(database)
    upkeep.declare(FIELDS)
    old = utcnow() - dt.timedelta(minutes=10)
    SearchProgress.update(moment=_text(old)).where(SearchProgress.name == "").execute()
    for _ in range(7):
        add(database, {"payload": '{"a": "same"}', "created_at": old + dt.timedelta(minutes=5)})
    while upkeep.fill(500):
        pass
    SearchEntry.delete().execute()
    while upkeep.index_new(3):
        assert look.count(parse("payload.a:same"), seconds=60) == Count(7)
    assert SearchEntry.select().where(SearchEntry.name == "payload.a").count() == 7


def test_a_task_with_the_id_of_a_deleted_one_is_found(database: peewee.Database) -> None:
    upkeep, look = SearchUpkeep(database), Search(database)
    keep(upkeep)
    for value in ("first", "second"):
        database.execute_sql("DELETE FROM sytq_tasks")
        add(database, {"payload": json.dumps({"a": value})}, "order-1")
        assert look.count(parse(f"payload.a:{value}"), seconds=60) == Count(1)
        upkeep.index_new(500)
        assert look.count(parse(f"payload.a:{value}"), seconds=60) == Count(1)
    upkeep.sweep(500)
    upkeep.verify(500)
    assert [row.value for row in SearchEntry.select().where(SearchEntry.name == "payload.a")] == ["second"]


def test_pages_go_on_behind_rows_of_another_programs_making(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FIRST", 2)
    texts = ["2026-07-01 10:00:00", "2026-07-01 11:00:00.5"]
    if not isinstance(database, peewee.MySQLDatabase):
        texts += ["2026-07-01T12:00:00Z", "2026-07-02T12:00:00+02:00", "2026-07-03", "today"]
    for number, text in enumerate(texts):
        for name in ("order-{}", "{}"):
            columns = f"('{name.format(number)}', 'x', '{{}}', '{text}')"
            database.execute_sql(f"INSERT INTO sytq_tasks (id, type, payload, created_at) VALUES {columns}")
    for size in (1, 3):
        seen = [one for page in listed(Search(database), parse("type:x"), size) for one in page]
        assert (len(seen), len(set(seen))) == (2 * len(texts), 2 * len(texts))


def test_entries_of_deleted_tasks_leave_the_index(database: peewee.Database) -> None:
    upkeep = SearchUpkeep(database)
    ended = {"state": "succeeded", "finished_at": NOW, "payload": '{"a": 1}'}
    ours, theirs, stays = (add(database, ended) for _ in range(3))
    keep(upkeep)
    transact(database, lambda: delete_ended([ours]))
    assert SearchEntry.select().where(SearchEntry.task_id == ours).count() == 0
    database.execute_sql(f"DELETE FROM sytq_tasks WHERE id = '{theirs}'")
    for _ in range(4):
        upkeep.sweep(2)
    assert {row.task_id for row in SearchEntry.select()} == {stays}


def test_a_field_declared_later_is_filled_and_found_meanwhile(database: peewee.Database) -> None:
    upkeep, look = SearchUpkeep(database), Search(database)
    for n in range(5):
        add(database, {"payload": json.dumps({"a": 1, "b": n}), "created_at": NOW + dt.timedelta(seconds=n)})
    keep(upkeep, ("payload.a",))
    upkeep.declare(["payload.a", "payload.b"])
    for _ in range(4):
        assert [look.count(parse(f"payload.b:{n}")).number for n in range(5)] == [1] * 5
        upkeep.fill(2)
    assert SearchEntry.select().where(SearchEntry.name == "payload.b").count() == 5


def test_a_field_that_nobody_declares_is_dropped_after_an_hour(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep, look = SearchUpkeep(database), Search(database)
    add(database, {"payload": '{"a": 1, "b": 2}'})
    keep(upkeep, ("payload.a", "payload.b"))

    def fields() -> list[str]:
        upkeep.declare(["payload.a"])
        upkeep.sweep(500)
        upkeep.sweep(500)
        assert look.count(parse("payload.b:2"), seconds=60) == Count(1)
        return sorted({row.name for row in SearchEntry.select()})

    assert fields() == ["owner", "payload.a", "payload.b"]
    monkeypatch.setattr("sytq.ledger.search_upkeep.utcnow", lambda: utcnow() + dt.timedelta(minutes=61))
    upkeep.declare(["payload.a"])
    assert fields() == ["owner", "payload.a"]
    assert Completion(database).names() == ["payload.a"]


def test_a_search_of_many_rows_ends_with_its_time_and_goes_on(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FIRST", 10)
    for n in range(40):
        add(database, {"error": "rare" if n == 3 else "often", "created_at": NOW + dt.timedelta(seconds=n)})
    look, wanted = Search(database), parse("error:rare")
    page = look.page(wanted, limit=5, seconds=0)
    assert (page.tasks, page.searched_to) == ([], NOW + dt.timedelta(seconds=30))
    assert look.count(wanted, seconds=0) == Count(0, exact=False)
    assert look.count(parse("error:often"), seconds=0) == Count(10, exact=False)
    found = look.page(wanted, limit=5, after=page.next)
    assert (len(found.tasks), found.next, found.searched_to) == (1, None, None)


def test_ended_tasks_without_an_end_come_last(database: peewee.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_FIRST", 2)
    ended = [add(database, {"state": "dead", "finished_at": NOW}) for _ in range(3)]
    without = [add(database, {"state": "dead"}) for _ in range(3)]
    seen = [one for page in listed(Search(database), parse("state:dead"), 2) for one in page]
    assert seen == [*reversed(ended), *reversed(without)]


def test_completion_offers_values_of_ones_own_tasks_only(database: peewee.Database) -> None:
    for owner, customer in (("shop", "anna"), ("shop", "anna"), ("shop", "adam"), ("bank", "alice"), (None, "zoe")):
        add(database, {"owner": owner, "metadata": json.dumps({"customer": customer, "of" + str(owner): 1})})
    keep(SearchUpkeep(database))
    complete = Completion(database)
    assert complete.values("metadata.customer", "a") == ["anna", "adam", "alice"]
    assert complete.values("metadata.customer", "a", owner="shop") == ["anna", "adam"]
    assert complete.values("metadata.customer", "", owner="shop", limit=1) == ["anna"]
    assert complete.values("owner", "", owner="shop") == ["shop"]
    assert "metadata.ofbank" in complete.names() and "metadata.ofbank" not in complete.names("shop")
    assert {"metadata.customer", "metadata.ofshop", "payload.a"} <= set(complete.names("shop"))


@pytest.mark.parametrize(
    ("payload", "query", "found"),
    [
        ({"a": 123}, "payload.a:123", 1),
        ({"a": "123"}, "payload.a:123", 1),
        ({"a": 123}, 'payload.a:"123"', 0),
        ({"a": 123.0}, "payload.a:123", 1),
        ({"a": 2**53 + 1}, f"payload.a:{2**53 + 1}", 1),
        ({"a": 2**53 + 1}, f"payload.a:{2**53}", 0),
        ({"a": 10**25}, "payload.a:1e25", 1),
        ({"a": True}, "payload.a:true", 1),
        ({"a": None}, "payload.a:null", 1),
        ({"a": "x" * 500}, f"payload.a:{'x' * 500}", 1),
        ({"a": "x" * 500}, f"payload.a:{'x' * 499}", 0),
        ({"a": "x "}, "payload.a:x", 0),
        ({"a": {"b": "c"}}, "payload.a.b:c", 1),
        ({"a": ["c"]}, "payload.a:c", 0),
    ],
)
def test_an_indexed_value_is_compared_as_json(database: peewee.Database, payload: Any, query: str, found: int) -> None:
    add(database, {"payload": json.dumps(payload)})
    assert Search(database).count(parse(query), seconds=60) == Count(found)
    keep(SearchUpkeep(database))
    assert Search(database).count(parse(query), seconds=60) == Count(found)
