"""Request bodies of /v2, and their schemas in the OpenAPI document."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, WithJsonSchema

from sytq import clock
from sytq.durations import Duration
from sytq.errors import InvalidInput, OutboundRefused
from sytq.http.guard import Guard
from sytq.http.headers import check_headers
from sytq.ledger.query.parse import LONGEST
from sytq.states import Priority

BATCH_MOST = 1000
THEN_MOST = 20
_AHEAD = dt.timedelta(days=3660)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_HEADERS_MOST = 4096  # characters of a callback's headers


def _moment(value: object) -> object:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a time with its offset, such as 2026-07-01T12:00:00Z")
    try:
        return dt.datetime.fromisoformat(value.upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not an existing time") from None


Moment = Annotated[
    dt.datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "RFC 3339 time with offset"}),
]
Key = Annotated[StrictStr, Field(min_length=1, max_length=150, pattern=r"^[!-~]+$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Timed(_Body):
    delay: Duration | None = Field(default=None, description="Earliest start, as a duration from now: 30s, 2h")
    run_at: Moment | None = None


class Callback(_Body):
    """A webhook to send when the task has ended, whatever its end: a POST, repeated until the response is a 2xx."""

    url: StrictStr = Field(min_length=1, max_length=2048, description="An http or https URL of a public address")
    headers: dict[StrictStr, StrictStr] = Field(default_factory=dict, description="Headers to send unchanged")


class _Described(_Body):
    type: StrictStr = Field(min_length=1, max_length=64)
    payload: dict[str, Any] = Field(default_factory=dict)
    priority: Priority | None = None
    metadata: dict[str, Any] | None = Field(default=None, description="Your own data: up to 4 KiB, searchable")
    callback: Callback | None = None


class NextTask(_Described):
    """A task that runs after the previous task has ended."""

    on_failure: Literal["cancel", "run"] = Field(
        default="cancel", description="What happens to the task when the previous task does not succeed"
    )


class NewTask(_Described, _Timed):
    """A task of any type. The type determines the payload."""

    unique_key: Key | None = Field(
        default=None,
        description="At most one unfinished task per type and owner has this key; a second submission returns it",
    )
    then: list[NextTask] = Field(
        default_factory=list, max_length=THEN_MOST, description="Tasks to run afterwards, in this order"
    )


class NewTasks(_Body):
    """Up to 1,000 tasks without `then`. Each is validated on its own."""

    tasks: list[Any] = Field(min_length=1, max_length=BATCH_MOST)


class Cancellation(_Body):
    """The reason, shown with the task."""

    reason: StrictStr = Field(default="", max_length=200)


class NewTime(_Timed):
    """The new start time of a waiting task: either `delay` or `run_at`. A delay of 0 runs the task now."""


class NewOperation(_Timed):
    """A change to all tasks that match a query. `delay` and `run_at` belong to reschedule."""

    action: Literal["cancel", "retry", "reschedule", "delete"]
    q: StrictStr = Field(min_length=1, max_length=LONGEST, description="Selects tasks, as in GET /v2/tasks")
    reason: StrictStr = Field(default="", max_length=200)
    dry_run: StrictBool = Field(default=False, description="Only count the tasks that match")


_LIMITER = Field(
    min_length=1, max_length=300, description="A limiter, a task type (type:NAME), or all types of a queue (queue:NAME)"
)


class LimiterPause(_Body):
    """The limiter to pause, and why: the reason is shown wherever the pause is."""

    limiter: StrictStr = _LIMITER
    why: StrictStr = Field(min_length=1, max_length=255)


class LimiterResumption(_Body):
    """The limiter to resume."""

    limiter: StrictStr = _LIMITER


class SchedulePause(_Body):
    """The schedule to pause, and why: the reason is shown wherever the pause is."""

    schedule: StrictStr = Field(min_length=1, max_length=64)
    why: StrictStr = Field(min_length=1, max_length=255)


class OneSchedule(_Body):
    """The schedule to resume or to trigger."""

    schedule: StrictStr = Field(min_length=1, max_length=64)


def when(wanted: _Timed) -> dt.datetime | None:
    """The time that a request asks for (aware), None for now. Raises InvalidInput."""
    if wanted.delay is None and wanted.run_at is None:
        return None
    if wanted.delay is not None and wanted.run_at is not None:
        raise InvalidInput("delay", "give either delay or run_at")
    now = clock.utc()
    if wanted.delay is not None:
        if wanted.delay > _AHEAD.total_seconds():
            raise InvalidInput("delay", "more than ten years ahead")
        return now + dt.timedelta(seconds=wanted.delay) if wanted.delay else None
    if wanted.run_at is not None and wanted.run_at > now + _AHEAD:
        raise InvalidInput("run_at", "more than ten years ahead")
    return wanted.run_at


def start_of(wanted: NewTime) -> dt.datetime:
    """The new start time of a waiting task (aware). Raises InvalidInput."""
    if wanted.delay is None and wanted.run_at is None:
        raise InvalidInput("run_at", "required, or delay")
    return when(wanted) or clock.utc()


def checked(callback: Callback | None, guard: Guard) -> dict[str, Any] | None:
    """A callback as the task keeps it. Raises InvalidInput for what could never be sent."""
    if callback is None:
        return None
    try:
        guard.check_url(callback.url)
        check_headers(callback.headers)
    except OutboundRefused as error:
        raise InvalidInput("callback.url", str(error)) from None
    except InvalidInput as error:
        raise InvalidInput("callback.headers", error.message) from None
    if sum(len(name) + len(value) for name, value in callback.headers.items()) > _HEADERS_MOST:
        raise InvalidInput("callback.headers", f"longer than {_HEADERS_MOST} characters")
    return callback.model_dump(exclude_defaults=True)
