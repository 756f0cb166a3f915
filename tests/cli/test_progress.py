"""Commands that change many tasks show how far they are, in JSON and when they are interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sytq.cli import app
from sytq.service.control import Operator
from tests.installation import Installation
from tests.terminal import Terminal

REPLAY = ("bulk", "cancel", "type:plain")
STEPS = [{"done": n, "of": 500, "text": f"{n} changed"} for n in (200, 200, 400, 500)]


def invoke(on: Installation, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env=on.environ)


def cancelled(on: Installation, count: int) -> list[str]:
    """Cancelled tasks; no worker has to record their end, as Redis never knew them."""
    tasks = [on.prepare("plain", f"t{n}") for n in range(count)]
    on.runtime.ledger.accept(tasks)
    ids = [task.id for task in tasks]
    assert invoke(on, "cancel", *ids).exit_code == 0
    return ids


def follow(end: Callable[[], Any]) -> Callable[..., Any]:
    """An operation that makes these steps."""

    def follows(
        parts: Any, ids: list[str], timeout: None, reached: Callable[[Mapping[str, Any]], None]
    ) -> dict[str, Any]:
        for step in STEPS:
            reached(step)
        return {ids[0]: end()}

    return follows


def succeeded() -> Any:
    return SimpleNamespace(state="succeeded", result=json.dumps({"matched": 500, "changed": 499, "unchanged": 1}))


def interrupted() -> Any:
    raise KeyboardInterrupt


def test_bulk_prints_a_line_of_json_for_each_step(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytq.cli.bulk.follow", follow(succeeded))
    first, second, last = map(json.loads, invoke(installation, *REPLAY, "--json").stdout.splitlines())
    assert (first["progress"], second["progress"]) == (STEPS[0], STEPS[2])
    assert (last["operation"], last["matched"], last["cancelled"]) == (first["operation"], 500, 499)
    assert invoke(installation, *REPLAY).stdout == "499 cancelled\n"


def test_interrupted_bulk_says_how_far_the_operation_is(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sytq.cli.bulk.follow", follow(interrupted))
    done = invoke(installation, *REPLAY)
    assert (done.exit_code, done.stdout) == (130, "")
    assert "500 of 500 tasks done, 500 changed. It continues without this command" in done.stderr


def test_interrupted_retry_of_many_says_what_is_done(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = cancelled(installation, 3)
    replay = Operator.replay

    def replays(operator: Operator, given: list[str]) -> int:
        if given == [ids[2]]:
            raise KeyboardInterrupt
        return replay(operator, given)

    monkeypatch.setattr(Operator, "replay", replays)
    done = invoke(installation, "retry", *ids)
    assert done.exit_code == 130
    assert done.stdout.splitlines() == [f"{task_id} is queued again" for task_id in ids[:2]]
    assert "Interrupted: 2 of 3 tasks done" in done.stderr


def test_retry_of_many_prints_a_line_of_json_a_second(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = cancelled(installation, 3)
    seconds = iter(range(100))
    monkeypatch.setattr("sytq.cli.output.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    *steps, last = map(json.loads, invoke(installation, "retry", *ids, "--json").stdout.splitlines())
    assert steps and {step["progress"]["of"] for step in steps} == {3}
    assert [task["outcome"] for task in last["tasks"]] == ["queued"] * 3


def test_retry_of_many_shows_a_bar_on_a_terminal(installation: Installation) -> None:
    ids = cancelled(installation, 12)
    terminal = Terminal("retry", *ids, environ=installation.environ)
    assert terminal.ended() == 0
    assert "/12" in terminal.text and f"{ids[-1]} is queued again" in terminal.text
    terminal.close()
