"""When made-up tasks were accepted, and how each went: its attempts, its end, its times."""

from __future__ import annotations

import bisect
import datetime as dt
import itertools
import math
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sytq.dev.seed.incidents import Cause, cause_of
from sytq.dev.seed.rows import MARK, Rows
from sytq.ledger.models import Attempt, Task
from sytq.states import CANCELLED, DEAD, SUCCEEDED
from sytq.tasktypes.payload import encode

DAYS = 8
_SLOT = dt.timedelta(minutes=10)
#: Of the time until now that the attempts of a task may take: a task that was accepted just now has ended, too.
_ENDED_BY = 0.95


@dataclass
class Course:
    """How a task goes: seconds until its first attempt, and of each; pauses between them grow from `pause`."""

    seconds: float
    wait: float = 0.05
    cause: Cause | None = None  # of its death
    failures: Sequence[str] = ()  # errors of the attempts before the last, which succeeds
    pause: float = 20.0
    result: Any = None
    cancelled: str | None = None  # the error of a task that was cancelled before it began
    status: int | None = None  # of the HTTP response at the end
    details: dict[str, Any] = field(default_factory=dict)  # of each attempt


@dataclass(frozen=True, slots=True)
class Made:
    """A task that was made up."""

    id: str
    type: str
    owner: str | None
    state: str
    error: str | None
    started_at: dt.datetime
    finished_at: dt.datetime
    attempts: int


class History:
    """Makes tasks that were accepted within the days before `until` (naive UTC); all chance comes from `seed`."""

    def __init__(self, rows: Rows, until: dt.datetime, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.until = until
        self._rows = rows
        # Of four processes a day: workers are deployed every morning.
        self._workers = [
            f"worker-{1 + number % 2}-{self.random.randrange(1000, 30000)}-{self.random.getrandbits(24):06x}"
            for number in range(4 * (DAYS + 2))
        ]

    def moments(self, count: int) -> Iterator[dt.datetime]:
        """So many moments in order: many by day, few at night and on Sundays."""
        slots = [self.until - _SLOT * number for number in range(DAYS * 24 * 6, 0, -1)]
        sums = list(itertools.accumulate(map(_busy, slots)))
        for moment in sorted(self.random.random() * sums[-1] for _ in range(count)):
            slot = bisect.bisect(sums, moment)
            share = (sums[slot] - moment) / (sums[slot] - (sums[slot - 1] if slot else 0.0))
            yield slots[slot] + _SLOT * (1 - share)

    def about(self) -> dict[str, Any]:
        """The customer and the order of a task."""
        number = self.random.randrange
        return {"customer": f"C-{number(1000, 9999)}", "order_id": number(100_000, 1_000_000)}

    def new_id(self, at: dt.datetime) -> str:
        """A UUIDv7 of that moment, so that rows are appended to the index of the ids."""
        ms = int(at.replace(tzinfo=dt.UTC).timestamp() * 1000)
        bits = self.random.getrandbits
        return str(uuid.UUID(int=ms << 80 | 7 << 76 | bits(12) << 64 | 2 << 62 | bits(62)))

    def ended(self, type_name: str, payload: Any, at: dt.datetime, course: Course, **more: Any) -> Made:
        """Add a task that has ended, with its attempts. `more` are columns of the task; `metadata` is a mapping."""
        task_id = more.pop("id", None) or self.new_id(at)
        cause, errors = course.cause, list(course.failures)
        if cause:
            errors = [str(cause.error)] * cause.attempts
        count = len(errors) + (cause is None and course.cancelled is None)
        worker = self._workers[4 * (self.until - at).days + self.random.randrange(4)]
        lengths = [course.seconds * self.random.uniform(0.6, 1.6) for _ in range(count)]
        pauses = [course.pause * 2**number for number in range(count)]
        needed = course.wait + sum(lengths) + sum(pauses[:-1])
        # What would end after now is faster instead.
        scale = min(1.0, (self.until - at).total_seconds() * _ENDED_BY / max(needed, 0.001))
        moment = at + dt.timedelta(seconds=course.wait * scale)
        started = moment
        last_error = course.cancelled
        state = CANCELLED if course.cancelled else DEAD if cause else SUCCEEDED
        for number, (seconds, pause) in enumerate(zip(lengths, pauses, strict=True), start=1):
            started = moment
            moment += dt.timedelta(seconds=seconds * scale)
            is_last = number == count
            error = errors[number - 1] if number <= len(errors) else None
            if is_last and cause and count > 1:
                error = f"{error} (failed after {count} attempts)"
            following = moment + dt.timedelta(seconds=pause * scale)
            self._rows.add(
                Attempt,
                task_id=task_id,
                token=number,
                attempt=number,
                outcome=state if is_last else "retry",
                worker=worker,
                error=error,
                status=cause.status if cause else course.status if is_last else None,
                detail=encode(self._detail(course, cause if cause or is_last else None, error, seconds)),
                started_at=started,
                finished_at=moment,
                next_at=None if is_last else following,
            )
            last_error = error or last_error
            if not is_last:
                moment = following
        if course.cancelled and not count:
            moment = at + dt.timedelta(seconds=course.seconds * scale)
        self._add(
            task_id,
            type_name,
            payload,
            at,
            state=state,
            result=None if course.result is None or state != SUCCEEDED else encode(course.result),
            error=last_error if state != SUCCEEDED else None,
            error_fingerprint=cause.fingerprint if cause else None,
            attempts=count,
            token=count,
            worker=worker if count else None,
            started_at=started if count else None,
            finished_at=moment,
            **more,
        )
        return Made(task_id, type_name, more.get("owner"), state, last_error, started, moment, count)

    def scheduled(self, type_name: str, payload: Any, at: dt.datetime, days: float, **more: Any) -> None:
        """Add a task that waits for a time in so many days."""
        later = self.until + dt.timedelta(days=days)
        self._add(self.new_id(at), type_name, payload, at, state="scheduled", scheduled_at=later, **more)

    def cause(self, type_name: str, at: dt.datetime, host: str | None = None) -> Cause | None:
        """Why a task of that moment dies, if it does."""
        for cause in cause_of(type_name, self.until - at, host):
            if self.random.random() < cause.share:
                return cause
        return None

    def _add(self, task_id: str, type_name: str, payload: Any, at: dt.datetime, **columns: Any) -> None:
        metadata = encode(MARK | columns.pop("metadata", {}))
        columns = {"attempts": 0, "token": 0, "queue": "default", "priority": "normal", "metadata": metadata} | columns
        text = payload if isinstance(payload, str) else encode(payload)
        self._rows.add(Task, id=task_id, type=type_name, payload=text, created_at=at, **columns)
        self._rows.flush()

    def _detail(self, course: Course, cause: Cause | None, error: str | None, seconds: float) -> dict[str, Any]:
        if not course.details:
            return {}
        detail = dict(course.details)
        if (kind := cause and cause.kind) and error:
            detail["error"] = kind
        if "host" in detail:
            total = round(seconds * 1000, 1)
            parts = {"connect": round(total * 0.2, 1), "first_byte": round(total * 0.7, 1)}
            detail["latency_ms"] = parts | {"total": total}
            if status := cause.status if cause else None if error else course.status:
                detail |= {"status": status, "headers": {"Content-Type": "application/json"}}
        return detail


def _busy(moment: dt.datetime) -> float:
    """The share of a moment's hour in the day, by the clock of a shop in Europe."""
    day = math.sin(math.pi * min(max((moment.hour + moment.minute / 60 - 5) / 17, 0.0), 1.0))
    return (0.12 + day) * (0.4 if moment.weekday() == 6 else 0.75 if moment.weekday() == 5 else 1.0)
