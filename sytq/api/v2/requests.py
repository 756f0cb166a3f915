"""What requests to /v2 may say, and when a task is to run.

Owns these models; they are also the schemas of the OpenAPI document.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, WithJsonSchema

from sytq.durations import Duration
from sytq.errors import InvalidInput, OutboundRefused
from sytq.http import Guard, check_headers
from sytq.ledger.query.parse import LONGEST

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
        raise ValueError("is no time that there is") from None


Moment = Annotated[
    dt.datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "RFC 3339, with its offset"}),
]
Key = Annotated[StrictStr, Field(min_length=1, max_length=150, pattern=r"^[!-~]+$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Timed(_Body):
    delay: Duration | None = Field(default=None, description="not before so much time has passed, such as 30s or 2h")
    run_at: Moment | None = None


class Callback(_Body):
    """Whom to tell when the task has ended, however it ends: a POST, repeated until it is answered with a 2xx."""

    url: StrictStr = Field(min_length=1, max_length=2048, description="http or https, no private address")
    headers: dict[StrictStr, StrictStr] = Field(default_factory=dict, description="sent with it, as they are")


class _Described(_Body):
    type: StrictStr = Field(min_length=1, max_length=64)
    payload: dict[str, Any] = Field(default_factory=dict)
    priority: Literal["urgent", "high", "normal", "low"] | None = None
    metadata: dict[str, Any] | None = Field(default=None, description="the caller's own, up to 4 KiB, searchable")
    callback: Callback | None = None


class NextTask(_Described):
    """A task that runs once the one before it has ended."""

    on_failure: Literal["cancel", "run"] = Field(
        default="cancel", description="what becomes of it when the one before it does not succeed"
    )


class NewTask(_Described, _Timed):
    """A task of any type. `payload` is the type's own."""

    unique_key: Key | None = Field(
        default=None,
        description="one unfinished task of the type and owner has it at most; a second one answers with the first",
    )
    then: list[NextTask] = Field(default_factory=list, max_length=THEN_MOST, description="run after it, in this order")


class NewTasks(_Body):
    """Up to 1,000 tasks, without `then`. Each is checked by itself."""

    tasks: list[Any] = Field(min_length=1, max_length=BATCH_MOST)


class Reason(_Body):
    """Why; shown with the task."""

    reason: StrictStr = Field(default="", max_length=200)


class NewTime(_Timed):
    """When a waiting task is to run: one of the two. A delay of 0 runs it now."""


class NewOperation(_Timed):
    """The same change to all tasks that match a query. `delay` and `run_at` are for reschedule."""

    action: Literal["cancel", "retry", "reschedule", "delete"]
    q: StrictStr = Field(min_length=1, max_length=LONGEST, description="which tasks, as in GET /v2/tasks")
    reason: StrictStr = Field(default="", max_length=200)
    dry_run: StrictBool = Field(default=False, description="only say how many it would be")


def when(wanted: _Timed) -> dt.datetime | None:
    """The time that a request asks for (aware), None for now. Raises InvalidInput."""
    if wanted.delay is not None and wanted.run_at is not None:
        raise InvalidInput("delay", "give either delay or run_at")
    now = dt.datetime.now(dt.UTC)
    if wanted.delay is not None:
        if wanted.delay > _AHEAD.total_seconds():
            raise InvalidInput("delay", "more than ten years ahead")
        return now + dt.timedelta(seconds=wanted.delay) if wanted.delay else None
    if wanted.run_at is not None and wanted.run_at > now + _AHEAD:
        raise InvalidInput("run_at", "more than ten years ahead")
    return wanted.run_at


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
