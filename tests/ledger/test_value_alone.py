"""A value without a field, and ids: found at once among any number of tasks."""

from __future__ import annotations

import datetime as dt

import peewee
import pytest

from sytq.ids import new_id
from sytq.ledger import slices
from sytq.ledger.database import transact
from sytq.ledger.models import SearchEntry, Task
from sytq.ledger.query import parse
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from sytq.states import STATES, TERMINAL


def insert(database: peewee.Database, number: int, owner: str = "us", **entries: str) -> list[str]:
    """Tasks of every state with these values in the index (`_` stands for a dot)."""
    ids, now = [], utcnow()
    for n in range(number):
        state, at = STATES[n % len(STATES)], now - dt.timedelta(seconds=n)
        row = {"id": new_id(), "type": "t", "state": state, "payload": "{}", "owner": owner, "created_at": at}
        transact(database, Task.insert(row | {"finished_at": at if state in TERMINAL else None}).execute)
        found = {"owner": owner} | {name.replace("_", "."): value for name, value in entries.items()}
        values = [{"name": k, "value": v, "moment": at, "task_id": row["id"]} for k, v in found.items()]
        transact(database, SearchEntry.insert_many(values).execute)
        ids.append(str(row["id"]))
    return ids


def found(database: peewee.Database, query: str, limit: int = 100) -> list[str]:
    page = Search(database).page(parse(query), limit=limit, seconds=0)  # one slice
    assert page.next is None
    return [task.id for task in page.tasks]


def test_value_finds_tasks_by_id_and_by_any_indexed_field(database: peewee.Database) -> None:
    insert(database, 400, payload_n="9")
    order = insert(database, 3, payload_order="123")
    other = insert(database, 2, metadata_customer="123", metadata_note="timed out")
    assert set(found(database, "123")) == {*order, *other}
    assert set(found(database, '"123" state:queued,scheduled')) == {*order[:2], *other}
    assert found(database, order[0]) == [order[0]]
    assert set(found(database, '123 "timed out"')) == set(other)
    assert found(database, "1234") == found(database, "us") == found(database, "æ\U0001f600") == []
    assert Search(database).count(parse("123 -state:queued")).number == 3
    assert Search(database).matching(parse("123"), [order[0], new_id()]) == [order[0]]


def test_value_finds_no_task_of_another_owner(database: peewee.Database) -> None:
    mine, other = insert(database, 1, payload_order="123"), insert(database, 1, owner="them", payload_order="123")
    page = Search(database).page(parse("123").owned_by("us"), limit=10)
    assert [task.id for task in page.tasks] == mine
    assert Search(database).count(parse(other[0]).owned_by("us")).number == 0


def test_value_of_very_many_tasks_is_found_newest_first(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_MANY", 5)
    ids = insert(database, 21, metadata_region="eu")
    page = Search(database).page(parse("eu"), limit=4)
    assert [task.id for task in page.tasks] == ids[:4]
    rest = Search(database).page(parse("eu"), limit=40, after=page.next)
    assert [task.id for task in rest.tasks] == ids[4:]


def test_pages_of_a_value_go_on_from_their_cursor(database: peewee.Database) -> None:
    ids = insert(database, 21, metadata_region="eu")
    search, seen, after = Search(database), [], None
    for _ in range(3):
        page = search.page(parse("eu state:dead,succeeded,cancelled"), limit=4, after=after)
        seen += [task.id for task in page.tasks]
        after = page.next
    assert after is None and seen == [i for n, i in enumerate(ids) if STATES[n % len(STATES)] in TERMINAL]


def test_ids_are_found_at_once_among_many_tasks(database: peewee.Database) -> None:
    old = insert(database, 300)[-1]
    assert found(database, f"id:{old},nosuch") == [old]
    assert found(database, f"id:{old} -id:{old}") == []
