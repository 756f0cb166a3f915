"""A task's life as spans: when it ran, and what it waited for in between. Reads no store and no clock.

What an attempt waited for stands in its detail (sytq.broker.waits); the rest follows from the times of the attempts. A
span that lasts has no end.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from typing_extensions import TypedDict

from sytq.broker.state_index import Live
from sytq.broker.waits import WAITS
from sytq.durations import format_duration
from sytq.ledger.ledger import History
from sytq.ledger.models import Attempt, Task
from sytq.ledger.values import from_ms, iso, naive, parsed
from sytq.service.live_state import current
from sytq.states import QUEUED, RUNNING, TERMINAL

Moment = TypeVar("Moment", dt.datetime, dt.datetime | None)
Kind = Literal["running", "permit", "worker", "limiter", "order", "tasks", "time", "retry", "paused", "alone", "other"]

#: What each kind says, before what it is about.
WORDS: dict[Kind, str] = {
    "running": "running",
    "permit": "of that waiting for a permit of",
    "worker": "waiting for a worker",
    "limiter": "waiting for",
    "order": "waiting for its turn",
    "tasks": "waiting for other tasks",
    "time": "waiting for its time",
    "retry": "waiting for its next attempt",
    "paused": "waiting for the paused type",
    "alone": "waiting to run alone",
    "other": "not in its queue",
}
#: A task enters its queue within this after its time, and is released within this after the last end.
_PROMOTED, _RELEASED = dt.timedelta(seconds=1), dt.timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Span:
    """`about` is the worker, limiters, task or type; `attempt` the one that ran, or that the wait came before."""

    kind: Kind
    attempt: int
    start: dt.datetime
    end: dt.datetime | None
    about: str | None = None
    detail: str | None = None


class SpanView(TypedDict):
    """A part of a task's life: it ran (`running`), or waited for a `worker`, a `limiter`, earlier tasks of its ordering
    key (`order`), the `tasks` that it depends on, its `time`, its next attempt (`retry`), a `paused` type, to run
    `alone`, or something else (`other`). A `permit` was waited for within the running span. `about` names the worker,
    limiter, task or type; `attempt` ran then or came next; `end` is null while the span lasts."""

    kind: Kind
    attempt: int
    start: str
    end: str | None
    about: str | None
    detail: str | None


def span_view(span: Span) -> SpanView:
    return {
        "kind": span.kind,
        "attempt": span.attempt,
        "start": iso(span.start),
        "end": iso(span.end) if span.end else None,
        "about": span.about,
        "detail": span.detail,
    }


def spans(task: Task, live: Live | None, history: History, limiter: str | None = None) -> list[Span]:
    """The spans in order, a permit's behind the running one that it lies in; `limiter` is waited for now."""
    found: list[Span] = []
    started = [attempt for attempt in history.attempts if attempt.started_at]
    cursor, before = _utc(task.created_at), None
    if history.is_cut and started:
        cursor = started[0].started_at or cursor
    life = _Life(task, history.released_at, any(attempt.next_at for attempt in started))
    for attempt, after in itertools.zip_longest(started, started[1:]):
        waited = _waits(attempt)
        queued_ms, limiter_before = waited.get("queued_ms"), waited.get("limiter")
        found += life.waits(cursor, attempt.started_at, before, attempt.attempt, queued_ms, limiter_before)
        end = attempt.finished_at or (after.started_at if after else None)
        found += _run(attempt, end)
        if end is None:
            return found
        cursor, before = end, attempt
    now = current(task, live)
    if now.state in TERMINAL:
        ended = _utc(task.finished_at) if task.state in TERMINAL else None
        return [*found, *life.waits(cursor, ended, before, task.attempts, None)] if ended else found
    if now.state == RUNNING:
        # Not recorded yet: the token is the time of the start, in most cases.
        at = max(cursor, from_ms(live.token)) if live else _utc(task.started_at) or cursor
        found += life.waits(cursor, at, before, now.attempts, None)
        return [*found, Span("running", now.attempts, at, None, now.worker)]
    lasting = list(life.waits(cursor, None, before, now.attempts + 1, live.queued_ms if live else None))
    if now.set_aside:
        lasting[-1] = replace(lasting[-1], kind="paused", about=task.type)
    elif now.suspect:
        lasting[-1] = replace(lasting[-1], kind="alone")
    elif now.state != QUEUED:
        lasting = _until_due(lasting, limiter)
    return [*found, *lasting]


def _until_due(waits: list[Span], limiter: str | None) -> list[Span]:
    """The waits of a task that is not queued: its last reason lasts."""
    *earlier, last = waits
    if last.kind == "worker" and earlier:
        *earlier, last = earlier
    if limiter is not None:
        return [*earlier, replace(last, kind="limiter", about=limiter, end=None)]
    return [*earlier, replace(last, kind="time" if last.kind == "worker" else last.kind, end=None)]


@dataclass(frozen=True, slots=True)
class _Reason:
    """What a task waited for, and until when if that is known."""

    kind: Kind
    until: dt.datetime | None
    about: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class _Life:
    task: Task
    released_at: dt.datetime | None
    retried: bool  # then the row's time is that of the latest retry

    def waits(
        self,
        start: dt.datetime,
        end: dt.datetime | None,
        before: Attempt | None,
        attempt: int,
        queued_ms: int | None,
        limiter: str | None = None,
    ) -> Iterator[Span]:
        """The waits from `start`, the end of the attempt `before`, to `end`; the last one was for the `limiter`."""
        revived = _utc(self.task.revived_at)
        if before is None or before.outcome in TERMINAL:  # it may have ended here, until somebody had it run again
            if revived and revived >= start and (end is None or revived <= end):
                start = revived
            elif before is not None:
                start = end or start
        queued = from_ms(queued_ms) if queued_ms is not None else None
        if queued is not None and (queued < start or (end is not None and queued > end)):
            queued = None
        last: Span | None = None
        reasons = self._reasons(before)
        for reason in reasons if limiter is None else itertools.chain(reasons, [_Reason("limiter", None, limiter)]):
            bounds = [moment for moment in (reason.until, queued, end) if moment is not None]
            until = min(bounds) if bounds else None
            if until is None or until > start:
                if last:
                    yield last
                last = Span(reason.kind, attempt, start, until, reason.about, reason.detail)
                if until is None:
                    break
                start = until
        if last and last.end and queued and queued - last.end < _PROMOTED:
            last, start = replace(last, end=queued), queued
        if last:
            yield last
            if last.end is None:
                return
        if queued is not None and queued > start:
            yield Span("other", attempt, start, queued)
            start = queued
        if end is None or end > start:
            yield Span("worker", attempt, start, end)

    def _reasons(self, before: Attempt | None) -> Iterator[_Reason]:
        """Why the task did not wait for a worker at once."""
        task = self.task
        if before is None or before.outcome in TERMINAL:
            due, released = None if self.retried else _utc(task.scheduled_at), _utc(self.released_at)
            if task.held is not None:  # or was skipped
                yield _Reason("tasks", None)
            elif released is not None:
                at_once = due is not None and released <= due < released + _RELEASED
                yield _Reason("tasks", due if at_once else released)
            if due is not None:
                yield _Reason("time", due)
            return
        then = _waits(before).get("then", {})
        if "limiter" in then:
            yield _Reason("limiter", None, then["limiter"], before.error)
        elif "task" in then:
            yield _Reason("order", before.next_at, then["task"], before.error)
        elif before.next_at is not None:
            yield _Reason("retry", before.next_at, detail=before.error)


def _run(attempt: Attempt, end: dt.datetime | None) -> Iterator[Span]:
    started = attempt.started_at
    assert started is not None
    outcome = None if end is None else attempt.outcome
    yield Span("running", attempt.attempt, started, end, attempt.worker, outcome)
    for permit in _waits(attempt).get("permits", []):
        at = started + dt.timedelta(milliseconds=permit["at_ms"])
        got = at + dt.timedelta(milliseconds=permit["ms"])
        yield Span("permit", attempt.attempt, at, got, ", ".join(permit["limiters"]))


def _utc(moment: Moment) -> Moment:
    """A row's time as naive UTC; rows of other programs may have an offset."""
    return naive(moment) if moment is not None and moment.tzinfo else moment


def _waits(attempt: Attempt) -> dict[str, Any]:
    detail = parsed(attempt.detail) if attempt.detail and WAITS in attempt.detail else None
    waits = detail.get(WAITS) if isinstance(detail, dict) else None
    return waits if isinstance(waits, dict) else {}


def summary(found: Iterable[SpanView]) -> str:
    """One line about how long the task waited for what, and ran, and what lasts."""
    sums: dict[str, float] = {}
    for span in found:
        named = span["about"] if span["kind"] in ("limiter", "permit", "paused") else None
        words = f"{WORDS[span['kind']]} {named}" if named else WORDS[span["kind"]]
        if span["end"] is not None:
            took = dt.datetime.fromisoformat(span["end"]) - dt.datetime.fromisoformat(span["start"])
            sums[words] = sums.get(words, 0.0) + took.total_seconds()
        else:
            sums.setdefault(words, 0.0)
    return "; ".join(f"{words} {format_duration(round(seconds, 3))}" for words, seconds in sums.items())
