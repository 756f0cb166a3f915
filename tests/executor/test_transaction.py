"""The children of a task: one key is one task in every attempt of the parent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq import Message

from sytq.broker.delivery import Delivery
from sytq.executor.transaction import Transaction
from sytq.ledger.database import read, transact
from sytq.ledger.events import Event
from sytq.ledger.insert import Accepted
from sytq.ledger.models import Step, Task
from sytq.ledger.values import utcnow
from sytq.runtime import Runtime
from tests.plugins.running import runtime_of

ROW = {"table_name": "valuation_records", "id": 7}  # one unfinished `llm` task per row


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with runtime_of(database_url, "redis://127.0.0.1:1/0") as made:
        yield made


def accept(runtime: Runtime, type_name: str, payload: Any) -> str:
    task = runtime.submitter.prepare(type_name, payload)
    assert runtime.ledger.accept([task]) == [Accepted(task.id)]
    return task.id


def enqueue(runtime: Runtime, parent: str, token: int, **payloads: Any) -> list[str]:
    """One attempt of the parent."""
    message = Message[Any]("default", "default", ({},), {}, {}, message_id=parent)
    delivery = Delivery(message, stream="", entry=b"", body=b"", attempts=token, max_attempts=5, token=token)

    def work() -> list[str]:
        return Transaction(runtime.ledger, runtime.submitter, delivery).enqueue_many("llm", payloads)

    return runtime.ledger.fenced(parent, token, work)


def end(runtime: Runtime, task_id: str) -> None:
    runtime.recording.write([Event(task_id, "succeeded", 1, 1, finished_at=utcnow(), result="null")])


def llm_tasks(runtime: Runtime) -> set[str]:
    return read(runtime.database, lambda: {row.id for row in Task.select().where(Task.type == "llm")})


def test_an_existing_task_replaces_a_child_at_every_attempt(runtime: Runtime) -> None:
    existing, parent = accept(runtime, "llm", ROW), accept(runtime, "default", {})
    assert enqueue(runtime, parent, 1, a=ROW, b=ROW | {"id": 8})[0] == existing
    before = llm_tasks(runtime)
    end(runtime, existing)
    for token in (2, 3):
        assert enqueue(runtime, parent, token, a=ROW)[0] == existing
    assert llm_tasks(runtime) == before
    assert len(before) == 2
    other = accept(runtime, "default", {})
    assert enqueue(runtime, other, 1, a=ROW)[0] not in before  # only one parent remembers it


def test_no_payloads_are_no_children(runtime: Runtime) -> None:
    parent = accept(runtime, "default", {})
    assert enqueue(runtime, parent, 1) == []
    assert llm_tasks(runtime) == set()


def test_an_existing_task_is_a_checkpoint_of_the_parent(runtime: Runtime) -> None:
    existing, parent = accept(runtime, "llm", ROW), accept(runtime, "default", {})
    enqueue(runtime, parent, 1, a=ROW)
    (step,) = runtime.ledger.steps(parent)
    assert (step.name[:6], step.state, step.value) == ("child ", "done", f'"{existing}"')


def test_a_deleted_existing_task_is_inserted_anew_once(runtime: Runtime) -> None:
    existing, parent = accept(runtime, "llm", ROW), accept(runtime, "default", {})
    enqueue(runtime, parent, 1, a=ROW)
    end(runtime, existing)
    transact(runtime.database, Task.delete().where(Task.id == existing).execute)
    (anew,) = enqueue(runtime, parent, 2, a=ROW)
    end(runtime, anew)
    assert enqueue(runtime, parent, 3, a=ROW) == [anew]
    assert llm_tasks(runtime) == {anew}


def test_a_failed_transaction_forgets_existing_tasks(runtime: Runtime) -> None:
    accept(runtime, "llm", ROW)
    parent = accept(runtime, "default", {})

    def work() -> None:
        enqueue(runtime, parent, 1, a=ROW)
        raise ValueError

    with pytest.raises(ValueError):
        transact(runtime.database, work)
    assert read(runtime.database, Step.select().count) == 0
