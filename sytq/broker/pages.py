"""Pages of what Redis holds: the entries of its lists, as people see them, and where the next page begins.

Owns the shape of each entry and of the cursors. Must not ask Redis: that is the inspection's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

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
    worker_age: float | None  # seconds since the worker's last heartbeat; None: it has left, or an hour ago
    seconds: float  # since this start
    cancelled_by: str | None  # somebody asked for its cancellation


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
    """A part of a list, and the cursor of the part behind it (None: this was the last)."""

    items: list[T]
    next: str | None


def cursor(text: str | None, form: re.Pattern[str]) -> tuple[tuple[str, str] | None, str]:
    """The place (two parts) at which a page before this ended, and the last entry there."""
    if text is None:
        return None, ""
    match = form.fullmatch(text)
    if match is None:
        raise strange(text)
    return (match[1], match[2]), match[3]


def strange(cursor: str) -> InvalidInput:
    """The error for an invalid cursor."""
    return InvalidInput("after", f"'{cursor[:64]}' is no cursor of this list; valid: the `next` of a page before")


def in_flight(place: tuple[str, str], now: int, worker: bytes, idle: int, task_id: bytes, state: bytes) -> InFlight:
    """What `inflight.lua` says of one entry, as far as it goes."""
    kind, attempts, started = "", 0, now - idle
    if state:
        _word, kind, _queue, _priority, given, _max, token, *_ = state.decode().split("|")
        # A start's token is its time, unless two fell on one millisecond.
        attempts, started = int(given), int(token)
    shown_id = task_id.decode(errors="replace")
    seconds = max(0.0, (now - started) / 1000)
    return InFlight(shown_id, kind, *place, attempts, worker.decode(), None, seconds, None)


def completed(task: InFlight, ages: Mapping[str, float], asked: Mapping[str, str]) -> InFlight:
    """With the age of its worker's heartbeat and who wants it cancelled."""
    return replace(task, worker_age=ages.get(task.worker), cancelled_by=asked.get(task.id))


def unreadable(entry: str, fields: dict[bytes, bytes]) -> Unreadable:
    """One entry of the dead letters."""
    at = int(entry.partition("-")[0]) / 1000
    if b"message" in fields:  # ack.lua: what a worker met in a stream
        source = fields.get(b"stream", b"").decode(errors="replace")
        return Unreadable(entry, at, source, "the message cannot be decoded", fields[b"message"])
    # The recorder: an event that cannot be written, with its own fields.
    reason = fields.get(b"reason", b"").decode(errors="replace")
    return Unreadable(entry, at, "events", reason, fields.get(b"data", b""))
