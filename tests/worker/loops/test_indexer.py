"""The loop that keeps the search index: new tasks, old tasks and what was missed, from the rows alone."""

from __future__ import annotations

import datetime as dt

import peewee

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.ids import new_id
from sytq.ledger.database import transact
from sytq.ledger.models import SearchEntry, Task
from sytq.ledger.search_upkeep import SearchUpkeep, begin_anew
from sytq.ledger.values import utcnow
from sytq.worker.loops.indexer import Indexer


def indexer(redis: str, database: peewee.Database) -> Indexer:
    return Indexer(Redis(redis), Keys("sytq"), "w1", SearchUpkeep(database), {"payload.a"})


def insert(database: peewee.Database, number: int, at: dt.datetime) -> None:
    rows = [
        {"id": new_id(), "type": "t", "payload": f'{{"a": {n}}}', "created_at": at - dt.timedelta(seconds=n)}
        for n in range(number)
    ]
    transact(database, Task.insert_many(rows).execute)


def indexed() -> int:
    return int(SearchEntry.select().where(SearchEntry.name == "payload.a").count())


def test_the_loop_indexes_old_new_and_late_tasks(redis_url: str, database: peewee.Database) -> None:
    loop = indexer(redis_url, database)
    insert(database, 600, utcnow() - dt.timedelta(days=1))
    while indexed() < 600:
        assert loop.step() <= 1.0
    insert(database, 3, utcnow() + dt.timedelta(minutes=1))
    loop._new_due = 0.0
    while indexed() < 603:
        loop.step()
    insert(database, 5, utcnow() - dt.timedelta(days=1))
    while indexed() < 608:
        loop._look_due = 0.0
        loop.step()


def test_an_index_that_begins_anew_is_filled_again(redis_url: str, database: peewee.Database) -> None:
    insert(database, 5, utcnow() - dt.timedelta(days=1))
    loop = indexer(redis_url, database)
    while indexed() < 5:
        loop.step()
    begin_anew(database)
    transact(database, SearchEntry.delete().execute)
    for _ in range(3):
        loop._look_due = 0.0
        assert loop.step() > 0  # without a head there is nothing to do until the names are declared again
    loop._declare_due = 0.0
    while indexed() < 5:
        loop.step()
