"""Response bodies of /v2, and their schemas in the OpenAPI document; views of tasks are in `sytq.service`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from sytq.service.status import LimiterView, MismatchView, QueueView, ScheduleView, TypeView, WorkerView
from sytq.service.task_view import TaskView


class FieldError(TypedDict):
    """One invalid field. For a query, `position` is the character (from 0) where parsing failed."""

    field: str
    message: str
    position: NotRequired[int]


class Problem(TypedDict):
    """An error in the problem details format (RFC 9457). docs/problems.md lists the types."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: NotRequired[list[FieldError]]


class Next(TypedDict):
    """A task that runs after the submitted one."""

    id: str
    type: str
    state: str | None
    existing: bool
    href: str


class Accepted(Next):
    """An accepted task, or the existing task with the same unique key; then `existing` is true and `state` null."""

    then: NotRequired[list[Next]]


class FieldErrors(TypedDict):
    """The invalid fields of a refused task."""

    errors: list[FieldError]


class RefusedItem(TypedDict):
    """A refused task of a batch."""

    error: FieldErrors


class BatchAnswer(TypedDict):
    """The result of a batch: one entry for each task, in the order of the request."""

    accepted: int
    refused: int
    results: list[Accepted | RefusedItem]


class TaskPage(TypedDict):
    """A page of tasks. `next` is the cursor of the next page, null on the last page.

    A search that takes longer than half a second answers with what it has found: then the page has fewer tasks than
    `limit`, all tasks down to `searched_to` were looked at, and `next` goes on from there. Else `searched_to` is null.
    """

    tasks: list[TaskView]
    next: str | None
    searched_to: str | None
    total: NotRequired[int]
    total_is_exact: NotRequired[bool]


class ChangeOutcome(TypedDict):
    """The outcome of a change to one task: cancelled, asked (it is interrupted), queued or rescheduled."""

    id: str
    outcome: str
    scheduled_at: NotRequired[str]


class OperationAnswer(TypedDict):
    """A bulk operation. It is a task: watch or cancel it by its id."""

    id: str
    action: str
    q: str
    href: str


class DryRun(TypedDict):
    """The number of tasks that a bulk operation would change; at least as many where it is not exact. `unchanged` has
    the number of matching tasks, by state, that the action leaves as they are; at least as many above 10,000."""

    action: str
    q: str
    matched: int
    matched_is_exact: bool
    unchanged: dict[str, int]


class UnreadableMessage(TypedDict):
    """A dead letter: a message that could not be decoded, with its bytes in Base64."""

    id: str
    at: str
    source: str
    reason: str
    raw_base64: str


class UnreadablePage(TypedDict):
    """A page of dead letters. `next` is the cursor of the next page, null on the last page."""

    messages: list[UnreadableMessage]
    next: str | None


class TypeDetail(TypeView):
    """A task type with the JSON Schema of its payload."""

    payload_schema: dict[str, Any] | None


class TypeList(TypedDict):
    """All task types."""

    types: list[TypeDetail]


class QueueList(TypedDict):
    """All queues."""

    queues: list[QueueView]


class WorkerList(TypedDict):
    """All worker processes."""

    workers: list[WorkerView]


class LimiterList(TypedDict):
    """The limiters that were used within about an hour, are paused or have tasks waiting; limited queues and types."""

    limiters: list[LimiterView]


class LimiterPaused(TypedDict):
    """The limiter grants no permit until it is resumed."""

    limiter: str
    paused: Literal[True]


class LimiterResumed(TypedDict):
    """The limiter grants permits. `ended` is what held it up (null: nothing), `waiting` is how many tasks waited."""

    limiter: str
    paused: Literal[False]
    ended: Literal["paused", "open", "half_open"] | None
    waiting: int


class MismatchList(TypedDict):
    """What differs between processes and must not."""

    mismatches: list[MismatchView]


class ScheduleList(TypedDict):
    """All schedules."""

    schedules: list[ScheduleView]


class SchedulePaused(TypedDict):
    """The schedule submits nothing until it is resumed."""

    schedule: str
    paused: Literal[True]


class ScheduleResumed(TypedDict):
    """The schedule submits its tasks; `resumed` says whether it was paused, `next` has its next run, if any."""

    schedule: str
    paused: Literal[False]
    resumed: bool
    next: list[str]


class ScheduleTriggered(TypedDict):
    """The schedule's task, or with `existing` the unfinished task that has its unique key."""

    id: str
    schedule: str
    existing: bool
    href: str


class FindingView(TypedDict):
    """What one check found. `todo` suggests a fix unless the verdict is ok."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    said: str
    todo: str


class Diagnosis(TypedDict):
    """What `sytq doctor` found on the machine of the API process, and when; `ok` unless a check failed."""

    ok: bool
    at: str
    checks: list[FindingView]


class AuditEntryView(TypedDict):
    """One entry of the audit log."""

    at: str
    who: str
    what: str
    about: str
    detail: str | None


class AuditPage(TypedDict):
    """Entries of the audit log, newest first; with `next` there may be older ones than `searched_to`."""

    entries: list[AuditEntryView]
    next: str | None
    searched_to: str | None
