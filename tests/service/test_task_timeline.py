"""The spans of a task's life say what it waited for, and when it ran."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from sytq.broker.state_index import Live
from sytq.broker.waits import WAITS
from sytq.ledger.ledger import History
from sytq.ledger.models import Attempt, Task
from sytq.service import task_timeline
from sytq.service.task_timeline import Span, span_view, summary

T0 = dt.datetime(2026, 11, 29, 12)


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def ms(seconds: float) -> int:
    return int(at(seconds).replace(tzinfo=dt.UTC).timestamp() * 1000)


def row(state: str, ended: float | None = None, **fields: Any) -> Task:
    finished = None if ended is None else at(ended)
    return Task(id="t", type="plain", state=state, created_at=T0, finished_at=finished, attempts=1, **fields)


def attempt(
    number: int, start: float, end: float | None, outcome: str, *, next_at: float | None = None, **waits: Any
) -> Attempt:
    return Attempt(
        attempt=number,
        token=ms(start),
        outcome=outcome,
        worker="w",
        error=None if outcome == "succeeded" else "no",
        detail=json.dumps({"status": 200} | ({WAITS: waits} if waits else {})),
        started_at=at(start),
        finished_at=None if end is None else at(end),
        next_at=None if next_at is None else at(next_at),
    )


def live(
    state: str, start: float = 0, *, parked: bool = False, suspect: bool = False, queued: float | None = None
) -> Live:
    queued_ms = None if queued is None else ms(queued)
    return Live(state, "plain", "q", "normal", 1, ms(start), "w2", parked, suspect, queued_ms=queued_ms)


def spans(
    task: Task,
    state: Live | None,
    attempts: list[Attempt],
    *,
    released_at: dt.datetime | None = None,
    limiter: str | None = None,
) -> list[Span]:
    return task_timeline.spans(task, state, History(attempts, [], released_at), limiter)


def seen(found: list[Span]) -> list[tuple[str, float, float | None, str | None]]:
    ends = [None if span.end is None else (span.end - T0).total_seconds() for span in found]
    return [(s.kind, (s.start - T0).total_seconds(), end, s.about) for s, end in zip(found, ends, strict=True)]


def test_a_task_waits_for_a_worker_and_runs() -> None:
    assert seen(spans(row("succeeded", 5), None, [attempt(1, 2, 5, "succeeded")])) == [
        ("worker", 0, 2, None),
        ("running", 2, 5, "w"),
    ]


def test_a_refused_permit_is_a_wait_for_its_limiter() -> None:
    handed_back = attempt(1, 1, 1, "waited", next_at=60, then={"limiter": "provider:a"})
    again = attempt(
        1, 30, 40, "succeeded", queued_ms=ms(28), permits=[{"limiters": ["x", "y"], "at_ms": 500, "ms": 250}]
    )
    assert seen(spans(row("succeeded", 40), None, [handed_back, again])) == [
        ("worker", 0, 1, None),
        ("running", 1, 1, "w"),
        ("limiter", 1, 28, "provider:a"),
        ("worker", 28, 30, None),
        ("running", 30, 40, "w"),
        ("permit", 30.5, 30.75, "x, y"),
    ]


def test_a_failed_attempt_waits_for_the_next_and_then_for_a_worker() -> None:
    found = spans(row("dead", 30), None, [attempt(1, 0, 5, "failed", next_at=15), attempt(2, 20, 30, "dead")])
    assert seen(found)[1:] == [("retry", 5, 15, None), ("worker", 15, 20, None), ("running", 20, 30, "w")]
    assert [span.attempt for span in found] == [1, 2, 2, 2]
    early = spans(row("dead", 30), None, [attempt(1, 0, 5, "failed", next_at=99), attempt(2, 20, 30, "dead")])
    assert seen(early)[1:] == [("retry", 5, 20, None), ("running", 20, 30, "w")]  # somebody had it run at once


def test_a_lost_attempt_waits_for_a_worker_alone() -> None:
    found = spans(row("succeeded", 9), None, [attempt(1, 0, 5, "lost"), attempt(1, 5.5, 9, "succeeded")])
    assert seen(found) == [("running", 0, 5, "w"), ("worker", 5, 5.5, None), ("running", 5.5, 9, "w")]


def test_waits_before_the_first_attempt_are_told_apart() -> None:
    behind = row("succeeded", 99, scheduled_at=at(50))
    found = spans(behind, None, [attempt(1, 90, 99, "succeeded", queued_ms=ms(80))], released_at=at(20))
    assert seen(found) == [
        ("tasks", 0, 20, None),
        ("time", 20, 50, None),
        ("other", 50, 80, None),  # paused, or Redis away
        ("worker", 80, 90, None),
        ("running", 90, 99, "w"),
    ]
    released = row("succeeded", 99, scheduled_at=at(20.3))  # by the end at 20
    assert seen(spans(released, None, [attempt(1, 21, 99, "succeeded")], released_at=at(20)))[:2] == [
        ("tasks", 0, 20.3, None),
        ("worker", 20.3, 21, None),
    ]


def test_a_replayed_task_did_not_wait_while_it_was_dead() -> None:
    again = row("succeeded", 110, revived_at=at(100))
    found = spans(again, None, [attempt(1, 0, 5, "dead"), attempt(1, 103, 110, "succeeded")])
    assert seen(found) == [("running", 0, 5, "w"), ("worker", 100, 103, None), ("running", 103, 110, "w")]
    cancelled = row("succeeded", 110, revived_at=at(100))
    assert seen(spans(cancelled, None, [attempt(1, 103, 110, "succeeded")]))[0] == ("worker", 100, 103, None)


def test_what_lasts_has_no_end() -> None:
    failed = attempt(1, 0, 5, "failed", next_at=15)
    refused = attempt(1, 0, 5, "waited", next_at=15, then={"limiter": "provider:a"})
    behind = attempt(1, 0, 5, "waited", next_at=15, then={"task": "older"})
    for state, attempts, expected in (
        (live("queued"), [], ("worker", 0, None, None)),
        (live("queued", parked=True), [], ("paused", 0, None, "plain")),
        (live("queued", suspect=True), [], ("alone", 0, None, None)),
        (live("scheduled"), [], ("time", 0, None, None)),
        (live("running", 7), [], ("running", 7, None, "w2")),
        (live("running", 17), [failed], ("running", 17, None, "w2")),
        (live("retrying"), [failed], ("retry", 5, None, None)),
        (live("retrying"), [refused], ("limiter", 5, None, "provider:a")),
        (live("retrying"), [behind], ("order", 5, None, "older")),
        (live("queued", queued=15), [failed], ("worker", 15, None, None)),
        (live("queued", queued=9), [refused], ("worker", 9, None, None)),
        (None, [attempt(1, 3, None, "running")], ("running", 3, None, "w")),
    ):
        assert seen(spans(row("queued"), state, attempts))[-1] == expected
    now = spans(row("queued"), live("retrying"), [failed], limiter="budget:owner:a")
    assert seen(now)[-1] == ("limiter", 5, None, "budget:owner:a")
    assert seen(spans(row("scheduled", held="cancel"), None, [])) == [("tasks", 0, None, None)]


def test_a_task_that_ended_while_it_waited_has_no_further_span() -> None:
    assert seen(spans(row("cancelled", 8), None, [])) == [("worker", 0, 8, None)]
    assert seen(spans(row("cancelled", 8, held="skipped"), None, [], released_at=at(7))) == [("tasks", 0, 8, None)]
    failed = attempt(1, 0, 5, "failed", next_at=15)
    assert seen(spans(row("cancelled", 8), None, [failed]))[-1] == ("retry", 5, 8, None)


def test_foreign_details_and_times_break_nothing() -> None:
    strange = attempt(1, 2, 5, "succeeded", queued_ms=ms(900), permits=[])
    assert seen(spans(row("succeeded", 5), None, [strange]))[0] == ("worker", 0, 2, None)
    for detail in ("no JSON", "[1]", '{"sytq:waits": 7}', None):
        strange.detail = detail
        assert seen(spans(row("succeeded", 5), None, [strange]))[1] == ("running", 2, 5, "w")


def test_the_summary_adds_up_what_the_task_waited_for() -> None:
    refused = attempt(1, 1, 1, "waited", next_at=60, then={"limiter": "provider:a"})
    again = [attempt(1, 30, 32, "failed", next_at=40), attempt(2, 41, 42.5, "succeeded")]
    found = spans(row("succeeded", 42.5), None, [refused, *again])
    assert summary(map(span_view, found)) == (
        "waiting for a worker 2s; running 3.5s; waiting for provider:a 29s; waiting for its next attempt 8s"
    )


def test_latest_attempts_alone_begin_with_the_first_of_them() -> None:
    every = [attempt(n, 10 * n, 10 * n + 1, "failed", next_at=10 * n + 10) for n in range(1, 5)]
    history = History(every[-2:], [], None, is_cut=True)
    found = task_timeline.spans(row("dead", 41), None, history)
    assert [(s.kind, s.attempt) for s in found] == [("running", 3), ("retry", 4), ("running", 4)]


def test_limiter_before_the_attempt_was_waited_for_until_the_task_was_queued() -> None:
    first = attempt(1, 9, 10, "succeeded", queued_ms=ms(8), limiter="host:h:443")
    assert seen(spans(row("succeeded", 10), None, [first])) == [
        ("limiter", 0, 8, "host:h:443"),
        ("worker", 8, 9, None),
        ("running", 9, 10, "w"),
    ]
    retried = [attempt(1, 1, 2, "failed", next_at=4), attempt(2, 9, 10, "succeeded", queued_ms=ms(8), limiter="l")]
    assert seen(spans(row("succeeded", 10), None, retried)) == [
        ("worker", 0, 1, None),
        ("running", 1, 2, "w"),
        ("retry", 2, 4, None),
        ("limiter", 4, 8, "l"),
        ("worker", 8, 9, None),
        ("running", 9, 10, "w"),
    ]
