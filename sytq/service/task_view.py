"""A task as the API, the command line and callbacks show it: RFC 3339 times in UTC, to the millisecond.

Reads no store: callers pass the row, and the newer state from Redis.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict

from sytq.broker.state_index import Live
from sytq.broker.waits import WAITS
from sytq.ledger.ledger import History
from sytq.ledger.models import Attempt, Step, Task
from sytq.ledger.values import iso, parsed
from sytq.service.explanations import ExplanationView, explanation
from sytq.service.live_state import current
from sytq.service.task_timeline import SpanView, span_view, spans
from sytq.states import SCHEDULED
from sytq.tasktypes.payload import encode
from sytq.tasktypes.registry import Registry


class Progress(TypedDict):
    """The progress that the task reported last."""

    done: int
    of: NotRequired[int | None]
    text: NotRequired[str]


class TaskView(TypedDict):
    """A task without its payload and result. `held` is true while the task waits for other tasks."""

    id: str
    type: str
    queue: str
    priority: str
    state: str
    attempts: int
    max_attempts: int | None
    worker: str | None
    progress: Progress | None
    error: str | None
    owner: str | None
    host: str | None
    parent: str | None
    unique_key: str | None
    held: bool
    metadata: dict[str, Any] | None
    request_id: str | None
    created_at: str
    scheduled_at: str | None
    started_at: str | None
    finished_at: str | None
    revived_at: str | None


class AttemptView(TypedDict):
    """One attempt. `detail` is what the task type recorded, `next_at` the time of the next attempt."""

    attempt: int
    outcome: str
    worker: str | None
    error: str | None
    started_at: str | None
    finished_at: str | None
    next_at: str | None
    detail: Any


class StepView(TypedDict):
    """A checkpointed step. `interrupted` is the number of times it started without a result."""

    name: str
    state: str
    interrupted: int
    started_at: str | None
    finished_at: str | None
    value: Any


class Moment(TypedDict):
    """An entry of a task's timeline."""

    at: str
    event: str


class TaskDetail(TaskView):
    """A task with its attempts, steps, timeline, and the spans in which it ran or waited. `shown` is the task type's
    summary of payload and result. A `suspect` is queued until it can run alone, as its worker died twice."""

    callback_url: str | None
    set_aside: bool
    suspect: bool
    cancelled_by: str | None
    attempts_made: list[AttemptView]
    steps: list[StepView]
    timeline: list[Moment]
    spans: list[SpanView]
    explanation: ExplanationView | None
    payload: Any
    result: Any
    shown: NotRequired[dict[str, str]]


def task_view(task: Task, registry: Registry, live: Live | None = None) -> TaskView:
    """The fields of a list entry. `live`, the state in Redis, takes precedence over the row."""
    now = current(task, live, with_result=True)
    return {
        "id": task.id,
        "type": task.type,
        "queue": task.queue or registry.queue_of(task.type),
        "priority": task.priority or registry.priority_of(task.type),
        "state": now.state,
        "attempts": now.attempts,
        "max_attempts": task.max_attempts,
        "worker": now.worker,
        "progress": _progress(now.progress),
        "error": task.error,
        "owner": task.owner,
        "host": task.host,
        "parent": task.parent,
        "unique_key": task.unique_key,
        "held": is_held(task),
        "metadata": _object(parsed(task.metadata)),
        "request_id": task.request_id,
        "created_at": iso(task.created_at),
        "scheduled_at": _iso(task.scheduled_at),
        "started_at": _iso(task.started_at),
        "finished_at": _iso(task.finished_at),
        "revived_at": _iso(task.revived_at),
    }


def task_detail(
    task: Task,
    registry: Registry,
    live: Live | None,
    cancelled_by: str | None,
    history: History,
    *,
    limiter: str | None = None,
    contents: bool = True,
) -> TaskDetail:
    """The whole task; without `contents` it lacks payload, result and the steps' results. `limiter` holds it up now.

    A task that has ended here has its result or error.
    """
    callback = _object(parsed(task.callback))
    attempts, steps = history.attempts, history.steps
    timeline = sorted(((iso(at), said) for at, said in _moments(task, attempts, steps)), key=lambda moment: moment[0])
    detail: TaskDetail = {
        **task_view(task, registry, live),  # type: ignore[typeddict-item]  # what may be missing is set below
        "callback_url": str(callback.get("url")) if callback else None,
        "set_aside": (now := current(task, live)).set_aside,
        "suspect": now.suspect,
        "cancelled_by": cancelled_by,
        "attempts_made": [_attempt(attempt) for attempt in attempts],
        "steps": [_step(step, contents) for step in steps],
        "timeline": [{"at": at, "event": said} for at, said in timeline],
        "spans": [span_view(span) for span in spans(task, live, history, limiter)],
        "explanation": explanation(task.error, registry.plugins),
    }
    if contents:
        detail["payload"], detail["result"] = parsed(task.payload), parsed(task.result)
        if task.type in registry:
            shown = registry.get(task.type).shown(detail["payload"], detail["result"], task.version)
            detail |= {"shown": shown} if shown else {}
    return detail


def announcement(task: Task) -> dict[str, Any]:
    """What a callback says of a task that has ended. The same at every attempt, so nothing in it may move."""
    return {
        "type": f"task.{task.state}",
        "timestamp": _iso(task.finished_at),
        "data": {
            "id": task.id,
            "type": task.type,
            "state": task.state,
            "attempts": task.attempts,
            "result": parsed(task.result),
            "error": task.error,
            "metadata": _object(parsed(task.metadata)),
            "created_at": iso(task.created_at),
            "finished_at": _iso(task.finished_at),
        },
    }


def is_held(task: Task) -> bool:
    """Whether a task waits for other tasks (and not for a worker, or a time)."""
    return task.held is not None and task.state == SCHEDULED


def _iso(moment: dt.datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _progress(value: Any) -> Progress | None:
    return value if isinstance(value, dict) and "done" in value else None  # type: ignore[return-value]


def _attempt(attempt: Attempt) -> AttemptView:
    return {
        "attempt": attempt.attempt,
        "outcome": attempt.outcome,
        "worker": attempt.worker,
        "error": attempt.error,
        "started_at": _iso(attempt.started_at),
        "finished_at": _iso(attempt.finished_at),
        "next_at": _iso(attempt.next_at),
        "detail": _own_detail(attempt),
    }


def _own_detail(attempt: Attempt) -> Any:
    """What the task type recorded; what the attempt waited for is shown by the spans."""
    detail = parsed(attempt.detail)
    if attempt.detail is None or WAITS not in attempt.detail or not isinstance(detail, dict):
        return detail
    return {name: value for name, value in detail.items() if name != WAITS} or None


def _step(step: Step, contents: bool) -> StepView:
    shown: StepView = {  # type: ignore[typeddict-item]  # the value is set below
        "name": step.name,
        "state": step.state,
        "interrupted": step.interrupted,
        "started_at": _iso(step.started_at),
        "finished_at": _iso(step.finished_at),
    }
    if contents:
        shown["value"] = parsed(step.value)
    return shown


def _moments(task: Task, attempts: Sequence[Attempt], steps: Sequence[Step]) -> Iterator[tuple[dt.datetime, str]]:
    """What happened, and what came first of one millisecond: Redis gives the ends of attempts no finer."""
    yield task.created_at, "accepted"
    if task.revived_at:
        yield task.revived_at, "replayed"
    for attempt in attempts:
        if attempt.started_at:
            yield attempt.started_at, f"attempt {attempt.attempt} started on {attempt.worker}"
    for step in steps:
        again = f", interrupted {step.interrupted} times" if step.interrupted else ""
        yield step.started_at, f"step {step.name} started{again}"
        if step.finished_at:
            yield step.finished_at, f"step {step.name} done"
    for attempt in attempts:
        if attempt.finished_at:
            why = f": {attempt.error}" if attempt.error else ""
            yield attempt.finished_at, f"attempt {attempt.attempt} ended, {attempt.outcome}{why}"
            if detail := _own_detail(attempt):
                said = encode(detail) if attempt.detail and WAITS in attempt.detail else attempt.detail
                yield attempt.finished_at, f"attempt {attempt.attempt} details: {said}"
    if task.finished_at:
        yield task.finished_at, task.state
