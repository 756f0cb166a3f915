"""The details a type shows of its tasks reach the API and the command; errors in them hide no task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sytq import task
from sytq.cli.task_view import print_task
from sytq.config import load
from sytq.ledger.events import Event
from sytq.ledger.ledger import History
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.service.task_view import task_detail
from sytq.states import SUCCEEDED
from sytq.tasktypes.resolution import resolve
from tests.plugins.running import runtime_of

MESSAGE = {"to": ["a@example.com", "b@example.com", "c@example.com", "d@example.com"], "subject": "Hello", "text": "x"}

NO_HISTORY = History([], [], None)


class Item(BaseModel):
    name: str


@pytest.fixture
def runtime(tmp_path: Path, redis_url: str) -> Iterator[Runtime]:
    with runtime_of(f"sqlite:///{tmp_path / 'sytq.db'}", redis_url) as made:
        yield made


def accepted(runtime: Runtime, payload: dict[str, Any]) -> Task:
    new = runtime.submitter.prepare("email", payload)
    runtime.ledger.accept([new])
    result = json.dumps({"sent": ["a", "b", "c"], "refused": {"d": "550"}})
    runtime.recording.record([Event(new.id, SUCCEEDED, 1, 1, result=result)])
    row = runtime.ledger.get(new.id)
    assert row is not None
    return row


def test_api_and_command_show_the_details_of_the_type(runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    row = accepted(runtime, MESSAGE)
    detail = task_detail(row, runtime.registry, None, None, NO_HISTORY)
    assert detail["shown"] == {
        "to": "a@example.com, b@example.com, c@example.com and 1 more",
        "subject": "Hello",
        "outcome": "3 sent, 1 refused",
    }
    assert "shown" not in task_detail(row, runtime.registry, None, None, NO_HISTORY, contents=False)
    print_task(runtime, row, payload=True, json_wanted=False)
    assert "outcome   3 sent, 1 refused\n" in capsys.readouterr().out


def test_an_invalid_payload_or_a_failing_type_hides_no_task() -> None:
    @task("item", payload=Item, show=lambda item, result: {"name": item.name, "size": result["size"], "none": None})
    def item(ctx: Any, payload: Item) -> None:
        pass

    shown = resolve(item, load(environ={})).shown
    assert shown({"name": " a\nb"}, {"size": 3}) == {"name": "a b", "size": "3"}
    assert shown({"nome": "a"}, None) == {}
    assert shown({"name": "a"}, None) == {"show": "failed: TypeError"}
