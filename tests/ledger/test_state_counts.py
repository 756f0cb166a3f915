"""The numbers of tasks by state on a page: right where they are few, and bounded reads where they are many."""

from __future__ import annotations

import datetime as dt

import peewee
import pytest

from sytq.ids import new_id
from sytq.ledger import state_counts
from sytq.ledger.database import transact
from sytq.ledger.models import Task
from sytq.ledger.state_counts import StateCounts
from sytq.ledger.values import utcnow


def add(database: peewee.Database, owner: str | None, state: str, count: int) -> None:
    at = utcnow() - dt.timedelta(minutes=5)
    row = {"type": "mail", "owner": owner, "state": state, "payload": "{}", "created_at": at}
    transact(database, Task.insert_many([row | {"id": new_id()} for _ in range(count)]).execute)


def shown(counts: dict[str, state_counts.Count]) -> dict[str, str]:
    return {state: f"{one.number}{'' if one.exact else '+'}" for state, one in counts.items() if one.number}


def test_states_of_all_tasks_are_counted_up_to_the_bound(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_counts, "_COUNTED", 10)
    add(database, "shop", "dead", 10)
    add(database, None, "succeeded", 11)
    assert shown(StateCounts(database).of_all()) == {"dead": "10", "succeeded": "10+"}


def test_owner_of_few_tasks_sees_their_number_among_many_of_others(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_counts, "_OF_STATE", 10)
    add(database, "small", "dead", 3)
    add(database, "small", "queued", 2)
    add(database, "large", "dead", 20)
    counts = StateCounts(database)
    assert shown(counts.of_owner("small")) == {"dead": "3", "queued": "2"}
    assert shown(counts.of_owner("nobody")) == {}


def test_owner_of_many_tasks_sees_at_least_what_the_latest_tell(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_counts, "_LATEST", 5)
    monkeypatch.setattr(state_counts, "_OF_STATE", 10)
    add(database, "large", "succeeded", 300)
    add(database, "large", "retrying", 4)
    add(database, "other", "retrying", 1)
    found = StateCounts(database).of_owner("large")
    assert found["retrying"] == state_counts.Count(4)  # all of the state were looked at
    assert found["dead"] == state_counts.Count(0)
    assert 10 <= found["succeeded"].number <= 300 and not found["succeeded"].exact
