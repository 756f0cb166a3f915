"""What /v2 answers, where it is no view of a task or of what runs tasks.

Owns these shapes; they are also the schemas of the OpenAPI document.
"""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from sytq.service.status import QueueView, ScheduleView, TypeView, WorkerView
from sytq.service.task_view import TaskView


class FieldError(TypedDict):
    """What is wrong with one field; for a query with the character (from 0) at which."""

    field: str
    message: str
    position: NotRequired[int]


class Problem(TypedDict):
    """RFC 9457; docs/problems.md has the types."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: NotRequired[list[FieldError]]


class Next(TypedDict):
    """A task that runs after another one."""

    id: str
    type: str
    state: str | None
    existing: bool
    href: str


class Accepted(TypedDict):
    """A task; `existing` tells that it stands for the one submitted, whose unique key it has. `state` is null then."""

    id: str
    type: str
    state: str | None
    existing: bool
    href: str
    then: NotRequired[list[Next]]


class Errors(TypedDict):
    errors: list[FieldError]


class RefusedItem(TypedDict):
    """A task of a batch that was not accepted."""

    error: Errors


class BatchAnswer(TypedDict):
    """A result for each task, in the order of the request."""

    accepted: int
    refused: int
    results: list[Accepted | RefusedItem]


class TaskPage(TypedDict):
    """`next` is the cursor of the page behind this one, null at the end."""

    tasks: list[TaskView]
    next: str | None
    total: NotRequired[int]
    total_is_exact: NotRequired[bool]


class Outcome(TypedDict):
    """What came of a change to one task: cancelled, asked (it runs and ends at its next step), queued, rescheduled."""

    id: str
    outcome: str
    scheduled_at: NotRequired[str]


class OperationAnswer(TypedDict):
    """A bulk operation: a task, to be watched and cancelled as such."""

    id: str
    action: str
    q: str
    href: str


class DryRun(TypedDict):
    """How many tasks an operation would change."""

    action: str
    q: str
    matched: int


class UnreadableMessage(TypedDict):
    id: str
    at: str
    source: str
    reason: str
    raw_base64: str


class UnreadablePage(TypedDict):
    messages: list[UnreadableMessage]
    next: str | None


class Types(TypedDict):
    types: list[TypeView]


class Queues(TypedDict):
    queues: list[QueueView]


class Workers(TypedDict):
    workers: list[WorkerView]


class Sum(TypedDict):
    """Calls, tokens and cost of one group; `unknown` counts the calls whose cost is not known."""

    day: NotRequired[str]
    provider: NotRequired[str]
    model: NotRequired[str]
    type: NotRequired[str]
    owner: NotRequired[str | None]
    table_name: NotRequired[str | None]
    row_id: NotRequired[int | None]
    task_id: NotRequired[str]
    calls: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    cost: str
    unknown: int


class Spend(TypedDict):
    by: str
    currency: str
    sums: list[Sum]


class Schedules(TypedDict):
    schedules: list[ScheduleView]
