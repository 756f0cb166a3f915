"""Effects of a recorded end, on SQLite and on MySQL."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from sytq.config import load
from sytq.ids import new_id
from sytq.ledger.database import open_database
from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.values import utcnow
from sytq.service.recording import Recording
from sytq.tasktypes.declaration import ANNOUNCEMENT, Death
from sytq.tasktypes.registry import Registry
from tests.tables import make_tables


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    database = open_database(database_url)
    make_tables(database)
    yield Ledger(database)
    database.close_all()


def accepted(ledger: Ledger) -> str:
    (task,) = ledger.accept([NewTask(new_id(), "t", "q", "high", "{}")])
    return task.id


def test_on_dead_runs_only_for_dead_tasks(ledger: Ledger) -> None:
    class Followers:
        def prepare(self, type_name: str, death: Death, *, id: str, **origin: object) -> NewTask:
            assert (type_name, origin["parent"]) == ("t.dead", death.task_id)
            return NewTask(id, type_name, "q", "high", "{}")

    recording = Recording({"t.dead"}, ledger, Followers())  # type: ignore[arg-type]
    died, done = accepted(ledger), accepted(ledger)

    def end(task_id: str, token: int, state: str) -> Event:
        return Event(task_id, state, token, 1, finished_at=utcnow(), outcome=state)

    assert recording.write([end(done, 1, "succeeded")]) == []
    (follower,) = recording.write([end(died, 1, "dead"), end(done, 2, "dead")])
    assert ledger.get(follower.id) is not None
    assert recording.write([end(died, 1, "dead")]) == [follower]  # written again, it is the same task
    assert ledger.find()[1] == 3


def test_p5_callback_is_kept_where_no_type_announces_it(ledger: Ledger) -> None:
    registry = Registry(load(environ={}, plugins=False))
    recording = Recording(registry, ledger, None)  # type: ignore[arg-type]
    wanted = NewTask(new_id(), "t", "q", "high", "{}", callback='{"url": "https://example.com/"}', owner="shop")
    (task,) = ledger.accept([wanted])
    end = Event(task.id, "succeeded", 1, 1, finished_at=utcnow(), outcome="succeeded")
    (callback,) = recording.write([end])
    assert recording.write([end]) == [callback]  # written again, it is the same task
    row = ledger.get(callback.id)
    assert row is not None
    assert (row.type, row.queue, row.parent, row.owner) == (ANNOUNCEMENT, "q", task.id, "shop")  # a worker reads q
    payload = json.loads(row.payload)
    assert payload["url"] == "https://example.com/"
    assert json.loads(payload["body"])["type"] == "task.succeeded"


@pytest.mark.parametrize("callback", ["no JSON", "[" * 50_000, "7"])
def test_an_end_is_recorded_though_its_callback_is_invalid(ledger: Ledger, callback: str) -> None:
    recording = Recording(Registry(load(environ={}, plugins=False)), ledger, None)  # type: ignore[arg-type]
    (task,) = ledger.accept([NewTask(new_id(), "t", "q", "high", "{}", callback=callback)])
    with capture_logs() as log:
        assert recording.write([Event(task.id, "succeeded", 1, 1, finished_at=utcnow(), outcome="succeeded")]) == []
    assert [(line["event"], line["task_id"]) for line in log] == [("callback refused", task.id)]
    row = ledger.get(task.id)
    assert row is not None and row.state == "succeeded"
