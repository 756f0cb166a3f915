"""The search index has every task once, whatever ends while a worker makes it."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ids import new_id
from sytq.ledger.database import transact
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from tests.installation import Installation
from tests.processes import Process
from tests.servers import MySQLServer, poll

pytestmark = pytest.mark.faults

OLD = 6000


def insert(installation: Installation, number: int, at: dt.datetime) -> list[str]:
    """Insert ended tasks, as another program would."""
    ids = [new_id() for _ in range(number)]
    ended = {"type": "plain", "state": "succeeded", "payload": "{}", "created_at": at, "finished_at": at}
    for start in range(0, number, 500):
        rows = [ended | {"id": one, "metadata": json.dumps({"order": one})} for one in ids[start : start + 500]]
        transact(installation.runtime.database, Task.insert_many(rows).execute)
    return ids


@contextmanager
def coming_in(installation: Installation) -> Iterator[None]:
    """Tasks come in all the time."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.02):
            with suppress(DatabaseUnavailable):
                insert(installation, 1, utcnow())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def entries(installation: Installation) -> list[tuple[str, ...]]:
    rows = installation.rows("SELECT name, value, task_id FROM sytq_search ORDER BY name, value")
    return [tuple(map(str, row)) for row in rows]


def wait_whole(installation: Installation) -> None:
    """Wait until each task has its two entries, and there are no others."""

    def is_whole() -> bool:
        ids = [row[0] for row in installation.rows("SELECT id FROM sytq_tasks")]
        wanted = [("metadata.order", one, one) for one in ids] + [("owner", "", one) for one in ids]
        return sorted(entries(installation)) == sorted(wanted)

    poll(is_whole, timeout=120, interval=0.5, message="every task is indexed once")


def found(installation: Installation, task_id: str) -> int:
    return Search(installation.runtime.database).count(parse(f"metadata.order:{task_id}")).number


def holder_of(installation: Installation, workers: list[Process]) -> Process:
    """The worker that keeps the index."""
    runtime = installation.runtime
    name = poll(lambda: runtime.redis.ask("GET", runtime.keys.lease("search")), message="a worker keeps the index")
    return next(worker for worker in workers if name.decode() in worker.text())


def begun(installation: Installation, more_than: int) -> Callable[[], bool]:
    return lambda: len(entries(installation)) > more_than


def test_a_killed_worker_leaves_an_index_that_the_next_completes(installation: Installation) -> None:
    ids = insert(installation, OLD, utcnow() - dt.timedelta(days=2))
    workers = [installation.start_worker() for _ in range(2)]
    with coming_in(installation):
        poll(begun(installation, 0), message="the index is begun")
        holder_of(installation, workers).kill()
        late, gone = insert(installation, 1, utcnow() - dt.timedelta(days=3)), ids.pop()
        installation.runtime.database.execute_sql("DELETE FROM sytq_tasks WHERE id = ?", (gone,))
    wait_whole(installation)
    assert [found(installation, one) for one in (ids[0], ids[-1], late[0], gone)] == [1, 1, 1, 0]


def test_an_index_goes_on_when_the_database_is_back(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer
) -> None:
    url = own_mysql.create_database("sytq")
    installation = make_installation(database_url=url, SYTQ_DATABASE__TIMEOUT="2s")
    ids = insert(installation, OLD, utcnow() - dt.timedelta(days=2))
    workers = [installation.start_worker() for _ in range(2)]
    with coming_in(installation):
        poll(begun(installation, 0), message="the index is begun")
        own_mysql.kill()
        own_mysql.start()
        before = len(entries(installation))
        poll(begun(installation, before), message="the index goes on")
        holder_of(installation, workers).kill()
    wait_whole(installation)
    assert [found(installation, one) for one in (ids[0], ids[-1])] == [1, 1]
