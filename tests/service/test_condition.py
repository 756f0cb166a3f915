"""What the stores' states mean, as doctor and the overview say it."""

from __future__ import annotations

from typing import Any

import pytest

from sytq.broker.inspection import Unwritten, WorkerInfo
from sytq.broker.limiter_states import LimiterState
from sytq.ledger.figures import Counts
from sytq.service import activity, condition
from sytq.service.finding import FAIL, OK, WARN, Finding
from sytq.service.status import QueueView


def queue(**more: Any) -> QueueView:
    level = {"waiting": 0, "running": 0, "oldest_seconds": None}
    levels = [{"priority": name, **level, **more.pop(name, {})} for name in ("urgent", "high", "normal", "low")]
    names = {
        "delayed": 0,
        "set_aside": 0,
        "suspects": 0,
        "paused": [],
        "limit": None,
        "rate": None,
        "max_waiting": None,
    }
    return {"queue": "llm", "priorities": levels, **names, **more}  # type: ignore[return-value,typeddict-item]


def limiter(name: str, state: str, **more: Any) -> LimiterState:
    numbers = dict.fromkeys(
        (
            "running",
            "limit_now",
            "limit",
            "waiting",
            "calls_in_window",
            "calls",
            "units_in_window",
            "units",
            "failures",
        ),
        0,
    )
    rest = {
        "window": 0.0,
        "took": None,
        "since": 0.0,
        "until": None,
        "reason": None,
        "by": None,
        "inside": [],
        "line": [],
    }
    return LimiterState(**{"name": name, "state": state, **numbers, **rest, **more})  # type: ignore[arg-type]


def said(findings: Any) -> list[str]:
    return [f"{one.verdict}: {one.said}" for one in condition.problems(findings)]


def test_a_service_at_rest_has_no_problem() -> None:
    findings = [
        condition.redis(OK),
        condition.database(OK),
        *condition.hold(""),
        condition.workers([WorkerInfo("a", 1.0)], lease=4.0),
        *condition.recorder(Unwritten(3, 0.2, 0)),
        *condition.queues([queue(normal={"waiting": 500, "oldest_seconds": 30.0})]),
        *condition.limiters([limiter("provider:a", "closed", waiting=50), limiter("type:a", "paused")]),
        *condition.dead(0),
    ]
    assert said(findings) == []


def test_failures_come_before_warnings() -> None:
    findings = [Finding("a", WARN, "a"), Finding("b", OK, "b"), Finding("c", FAIL, "c")]
    assert said(findings) == ["fail: c", "warn: a"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([condition.redis("does not answer")], "fail: Redis does not answer"),
        ([condition.redis("Redis refuses its user SET")], "fail: Redis refuses its user SET"),
        ([condition.database("disk full")], "fail: disk full"),
        (condition.hold("since noon by me: look"), "warn: the service is held since noon by me: look"),
        ([condition.workers([], 4.0)], "warn: no worker is alive: tasks are accepted and wait"),
        ([condition.workers([WorkerInfo("a", 1), WorkerInfo("b", 60)], 4.0)], "warn: 1 alive, 1 lost"),
        (condition.recorder(Unwritten(9, 61, 0)), "fail: 9 events wait, the oldest for 1m1s"),
        (condition.recorder(Unwritten(0, 0, 2)), "warn: 2 messages or events could not be decoded or recorded"),
        (
            condition.queues([queue(high={"oldest_seconds": 1500.0})]),
            "warn: tasks wait in the queue llm (high), the first for 25 minutes",
        ),
        (
            condition.queues([queue(paused=["mail"], set_aside=3)]),
            "warn: the type mail is paused, 3 tasks of the queue are set aside",
        ),
        (
            condition.limiters([limiter("provider:a", "open", waiting=7, reason="status 503")]),
            "warn: provider:a has an open circuit breaker, 7 tasks wait: status 503",
        ),
        (condition.dead(1), "warn: 1 task died within the last hour"),
        (condition.dead(5000), "warn: 5,000 tasks died within the last hour"),
    ],
)
def test_each_trouble_is_named(found: Any, expected: str) -> None:
    assert said(found) == [expected]
    assert all(one.todo for one in condition.problems(found))


def test_many_limiters_that_are_held_up_are_counted() -> None:
    found = list(condition.limiters([limiter(f"host:{n}", "paused") for n in range(20)]))
    assert len(found) == 4 and found[-1].said.startswith("17 more limiters")


def test_levels_of_a_queue_are_those_that_were_used() -> None:
    lately = {("llm", "low"): Counts(accepted=5)}
    found = list(activity.levels([queue(urgent={"running": 1})], lately, {}))
    assert [(one.priority, one.running, one.lately.accepted, one.is_first) for one in found] == [
        ("urgent", 1, 0, True),
        ("low", 0, 5, False),
    ]
    assert [one.priority for one in activity.levels([queue()], {}, {})] == ["normal"]
