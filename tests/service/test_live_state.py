"""Which of the two stores takes precedence about a task."""

from __future__ import annotations

import pytest

from sytq.broker.state_index import Live
from sytq.ledger.models import Task
from sytq.service.live_state import current


def row(state: str, token: int = 1) -> Task:
    return Task(id="t", state=state, token=token, attempts=1, worker="old", progress='{"done": 1}')


def live(state: str, token: int = 1, progress: dict[str, int] | None = None) -> Live:
    return Live(
        state, "plain", "q", "high", 2, token, "new", parked=state == "queued", suspect=False, progress=progress
    )


def test_redis_takes_precedence_over_an_unfinished_row() -> None:
    now = current(row("queued"), live("running", 2, {"done": 5}))
    assert (now.state, now.attempts, now.worker, now.progress) == ("running", 2, "new", {"done": 5})
    assert current(row("queued"), live("running")).progress == {"done": 1}  # Redis has none: that of the row stays
    assert current(row("queued"), live("queued")).set_aside


@pytest.mark.parametrize("state", ["succeeded", "dead", "cancelled"])
def test_an_ended_row_takes_precedence_over_redis(state: str) -> None:
    assert current(row(state), live("running", 9)).state == state


def test_a_row_of_a_later_attempt_takes_precedence_over_redis() -> None:
    now = current(row("retrying", 3), live("running", 2))
    assert (now.state, now.attempts, now.worker, now.set_aside) == ("retrying", 1, "old", False)
    assert current(row("queued"), None).state == "queued"


@pytest.mark.parametrize(
    ("state", "shown"), [("succeeded", "running"), ("dead", "running"), ("cancelled", "cancelled")]
)
def test_with_result_a_task_ends_once_its_row_has_the_result(state: str, shown: str) -> None:
    assert current(row("running"), live(state)).state == state
    assert current(row("running"), live(state), with_result=True).state == shown
