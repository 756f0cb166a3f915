"""Retention: what is old and finished goes, with all that belongs to it; nothing else does."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from sytq_plugins.cleanup import Cleanup

from sytq.ledger import utcnow
from sytq.models import Attempt, Step, Task
from sytq.runtime import Runtime
from sytq.states import STATES, TERMINAL
from tests.plugins.running import Run, runtime_of


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with runtime_of(database_url, "redis://127.0.0.1:1/0", QUEUE__RETENTION="1h") as made:
        yield made


def add(runtime: Runtime, name: str, state: str, hours: float) -> None:
    """A task with an attempt and a step that ended `hours` ago."""
    now = utcnow()
    ended = now - dt.timedelta(hours=hours)
    with runtime.database.connection_context():
        Task.create(
            id=name, type="llm", state=state, payload="{}", created_at=now - dt.timedelta(days=9), finished_at=ended
        )
        Attempt.create(task_id=name, token=1, attempt=1, outcome="x")
        Step.create(task_id=name, name="s", token=1, state="done", started_at=now)


def clean(runtime: Runtime, **payload: Any) -> Any:
    run = Run(runtime, "cleanup", payload)
    result = run.start()
    with runtime.database.connection_context():
        Task.delete().where(Task.id == run.id).execute()
    return result


def left(runtime: Runtime) -> set[str]:
    """What is still there, the same in all three tables."""
    with runtime.database.connection_context():
        tasks = {row.id for row in Task.select(Task.id)}
        assert tasks == {row.task_id for row in Attempt.select()} == {row.task_id for row in Step.select()}
    return tasks


def test_finished_tasks_older_than_the_retention_go_with_what_belongs_to_them(runtime: Runtime) -> None:
    for state in TERMINAL:
        add(runtime, f"old-{state}", state, 1.1)
        add(runtime, f"new-{state}", state, 0.9)
    assert clean(runtime) == {"deleted": 3}
    assert left(runtime) == {f"new-{state}" for state in TERMINAL}


def test_a_task_that_has_not_ended_stays_however_old(runtime: Runtime) -> None:
    unfinished = [state for state in STATES if state not in TERMINAL]
    for state in unfinished:
        add(runtime, state, state, 5)  # a time that another program wrote there makes no end of it
    assert clean(runtime, older_than="0s") == {"deleted": 0}
    assert left(runtime) == set(unfinished)


def test_an_age_of_ones_own(runtime: Runtime) -> None:
    add(runtime, "hour", "succeeded", 1)
    add(runtime, "day", "succeeded", 24)
    assert clean(runtime, older_than="12h") == {"deleted": 1}
    assert left(runtime) == {"hour"}


def test_a_dry_run_counts_and_deletes_nothing(runtime: Runtime) -> None:
    add(runtime, "old", "dead", 2)
    assert clean(runtime, dry_run=True) == {"deleted": 0, "would_delete": 1}
    assert left(runtime) == {"old"}


def test_more_than_a_batch_goes_in_one_run(runtime: Runtime) -> None:
    long_ago = utcnow() - dt.timedelta(hours=2)
    rows = [
        {"id": f"t{number}", "type": "x", "state": "succeeded", "payload": "{}", "created_at": long_ago,
         "finished_at": long_ago}
        for number in range(1201)
    ]  # fmt: skip
    with runtime.database.connection_context():
        for start in range(0, len(rows), 500):
            Task.insert_many(rows[start : start + 500]).execute()
    assert clean(runtime) == {"deleted": 1201}
    assert left(runtime) == set()


@pytest.mark.parametrize("payload", [{"older_than": "-1s"}, {"older_than": "soon"}, {"dry_run": 7}, {"x": 1}])
def test_a_payload_that_is_none_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cleanup.model_validate(payload)
