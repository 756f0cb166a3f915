"""Pages of the lists in Redis: their entries as people see them, and their cursors. Does not call Redis."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sytq.broker.state_index import Live
from sytq.errors import InvalidInput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InFlight:
    """A task that a worker holds. `type` is empty for a message that is none of ours."""

    id: str
    type: str
    queue: str
    priority: str
    attempts: int
    worker: str
    worker_age: float | None  # seconds since the worker's last heartbeat; None: it left, or beat an hour ago
    seconds: float  # since the start of this attempt
    cancelled_by: str | None  # who asked for its cancellation


@dataclass(frozen=True, slots=True)
class Delayed:
    """A task that waits for its time (scheduled) or its next attempt (retrying); `due` is unix seconds."""

    id: str
    type: str
    queue: str
    priority: str
    state: str
    attempts: int
    due: float


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that could not be read, or an event that could not be written. `at` is unix seconds."""

    id: str
    at: float
    source: str
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and the next part's cursor (None: this is the last)."""

    items: list[T]
    next: str | None


def cursor(text: str | None, form: re.Pattern[str]) -> tuple[tuple[str, str] | None, str]:
    """Parse a cursor: the place (two parts) at which the page before ended, and its last entry."""
    if text is None:
        return None, ""
    match = form.fullmatch(text)
    if match is None:
        raise strange(text)
    return (match[1], match[2]), match[3]


def strange(cursor: str) -> InvalidInput:
    return InvalidInput("after", f"'{cursor[:64]}' is no cursor of this list; valid: the `next` of a page before")


def in_flight(place: tuple[str, str], now: int, worker: bytes, idle: int, task_id: bytes, state: bytes) -> InFlight:
    """Parse an entry of `inflight.lua`; `completed` adds the rest."""
    kind, attempts, started = "", 0, now - idle
    if state:
        live = Live.parse(state)
        # An attempt's token is the time of its start, unless two fell on one millisecond.
        kind, attempts, started = live.type, live.attempts, live.token
    shown_id = task_id.decode(errors="replace")
    seconds = max(0.0, (now - started) / 1000)
    return InFlight(shown_id, kind, *place, attempts, worker.decode(), None, seconds, None)


def completed(task: InFlight, ages: Mapping[str, float], asked: Mapping[str, str]) -> InFlight:
    """Return the task with its worker's age and the requester of its cancellation."""
    return replace(task, worker_age=ages.get(task.worker), cancelled_by=asked.get(task.id))


def unreadable(entry: str, fields: dict[bytes, bytes]) -> Unreadable:
    """Parse an entry of the dead letters."""
    at = int(entry.partition("-")[0]) / 1000
    if b"message" in fields:  # from ack.lua: a message of a task stream
        source = fields.get(b"stream", b"").decode(errors="replace")
        return Unreadable(entry, at, source, "the message cannot be decoded", fields[b"message"])
    # From the recorder: an event that cannot be written, with its own fields.
    reason = fields.get(b"reason", b"").decode(errors="replace")
    return Unreadable(entry, at, "events", reason, fields.get(b"data", b""))
