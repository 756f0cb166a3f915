"""Queues, types, workers and schedules as the API and the command line show them. Changes nothing."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal, cast

from typing_extensions import TypedDict

from sytq import clock
from sytq.broker.cards import Cards
from sytq.broker.inspection import Inspection, WorkerInfo
from sytq.broker.limiter_states import LimiterState
from sytq.broker.pages import Unreadable
from sytq.config.sections import QueueLimits
from sytq.durations import format_duration
from sytq.ledger.models import Pause, ScheduleRow
from sytq.ledger.schedules import AHEAD, Schedules
from sytq.ledger.values import iso
from sytq.service.comparison import Comparison
from sytq.tasktypes.registry import Registry


class LevelView(TypedDict):
    """One priority of a queue."""

    priority: str
    waiting: int
    running: int
    oldest_seconds: float | None


class QueueView(TypedDict):
    """A queue. `delayed` tasks wait for their time or next attempt, `set_aside` tasks for a paused type to resume;
    `paused` names those types. `suspects`, whose workers died twice, wait to run alone. Submissions are refused once
    `max_waiting` tasks wait."""

    queue: str
    delayed: int
    set_aside: int
    suspects: int
    paused: list[str]
    limit: int | None
    rate: str | None
    max_waiting: int | None
    priorities: list[LevelView]


class PauseView(TypedDict):
    """Who paused a type or a schedule, when and why."""

    at: str
    by: str
    why: str


class TypeView(TypedDict):
    """A task type. Most fields are null for a paused type that is not installed here."""

    type: str
    version: int | None
    queue: str | None
    priority: str | None
    max_attempts: int | None
    timeout: str | None
    internal: bool
    admin_only: bool
    paused: PauseView | None


class WorkerView(TypedDict):
    """A worker process with a heartbeat within the last hour.

    The rest is what a living one says of itself; all null of one that is older than 0.2. `ahead_seconds` is by how much
    its clock leads Redis'; two with one `configuration` are configured alike; a `refused` one does not consume.
    `memory_bytes` is resident memory, in steps of 16 MiB.
    """

    worker: str
    heartbeat_seconds: float
    alive: bool
    host: str | None
    pid: int | None
    version: str | None
    started: str | None
    queues: list[str] | None
    configuration: str | None
    ahead_seconds: float | None
    memory_bytes: int | None
    refused: bool | None


class MismatchView(TypedDict):
    """What differs between processes and must not: a setting, a type, a queue, a host, a store (`about`).

    `message` names both sides, `todo` says what to do. The kinds are redis, ledger, clock, queue, settings, types,
    plugin and version.
    """

    kind: str
    about: str
    message: str
    todo: str


class ScheduleView(TypedDict):
    """A schedule that submits a task at its times."""

    name: str
    type: str
    schedule: str
    last: str | None
    ahead: float | None  # seconds by which the last run lies in the future: a clock is or was wrong
    next: list[str]
    paused: PauseView | None


class LimiterView(TypedDict):
    """A limiter at this moment. `state` is closed (calls pass), open or half_open (its circuit breaker), or paused.

    `running` permits are held of the `limit_now` that may be, `waiting` tasks are in the wait queue; `units` are the
    sum of costs. A limit of 0 is none. `took` is for how many seconds a permit was held of late, on average. `running`
    is null of a type without limits, whose tasks are not counted.
    """

    name: str
    state: Literal["closed", "open", "half_open", "paused"]
    running: int | None
    limit_now: int
    limit: int
    waiting: int
    calls_in_window: int
    calls: int
    units_in_window: int
    units: int
    window: float
    failures: int
    took: float | None
    since: str | None
    until: str | None
    reason: str | None
    by: str | None


def queues(inspection: Inspection, registry: Registry, settings: Mapping[str, QueueLimits]) -> list[QueueView]:
    """Every queue with its limits. Raises RedisUnavailable."""
    depths = inspection.queues()
    delayed, parked = inspection.delayed(), inspection.parked()  # there may be more queues by now
    suspects = inspection.suspects()
    paused = [registry.get(name) for name in inspection.paused() if name in registry]
    found: dict[str, QueueView] = {}
    for depth in depths:
        limits = settings.get(depth.queue)
        queue = found.setdefault(
            depth.queue,
            {
                "queue": depth.queue,
                "delayed": delayed[depth.queue],
                "set_aside": parked[depth.queue],
                "suspects": suspects[depth.queue].waiting,
                "paused": [declared.name for declared in paused if declared.queue == depth.queue],
                "limit": limits.limit if limits else None,
                "rate": limits.model_dump(mode="json")["rate"] if limits else None,
                "max_waiting": limits.max_waiting if limits else None,
                "priorities": [],
            },
        )
        queue["priorities"].append(
            {
                "priority": depth.priority,
                "waiting": depth.waiting,
                "running": depth.running,
                "oldest_seconds": depth.oldest,
            }
        )
    return list(found.values())


def types(registry: Registry, paused: Iterable[Pause]) -> list[TypeView]:
    """Every type that is installed or paused."""
    pauses = {row.type: row for row in paused}
    known = {declared.name: declared for declared in registry}
    found: list[TypeView] = []
    # A type that is paused stays so when it is not installed here, or no more.
    for name in sorted(known.keys() | pauses.keys()):
        declared = known.get(name)
        found.append(
            {
                "type": name,
                "version": declared.version if declared else None,
                "queue": declared.queue if declared else None,
                "priority": declared.priority if declared else None,
                "max_attempts": declared.retry.max_attempts if declared else None,
                "timeout": format_duration(declared.timeout) if declared else None,
                "internal": declared.internal if declared else False,
                "admin_only": declared.admin_only if declared else False,
                "paused": _pause(pauses.get(name)),
            }
        )
    return found


def workers(inspection: Inspection, cards: Cards, lease: float) -> list[WorkerView]:
    """The workers, those with the latest sign first. Raises RedisUnavailable."""
    known = {seen.name: seen.card for seen in cards.workers()}
    found = [_worker(info, known.get(info.name) or {}, lease) for info in inspection.workers()]
    return sorted(found, key=lambda worker: worker["heartbeat_seconds"])


def _worker(info: WorkerInfo, card: Mapping[str, Any], lease: float) -> WorkerView:
    return {
        "worker": info.name,
        "heartbeat_seconds": round(info.age, 3),
        "alive": info.age <= lease,
        "host": card.get("host"),
        "pid": card.get("pid"),
        "version": card.get("version"),
        "started": card.get("started"),
        "queues": card.get("queues"),
        "configuration": card.get("fingerprint"),
        "ahead_seconds": card["ahead"].get("redis") if card else None,
        "memory_bytes": card.get("memory"),
        "refused": bool(card["refused"]) if card else None,
    }


def mismatches(comparison: Comparison) -> list[MismatchView]:
    """What differs between processes. Raises RedisUnavailable."""
    return [
        {"kind": each.kind, "about": each.about, "message": each.said, "todo": each.todo} for each in comparison.find()
    ]


def limiter(state: LimiterState) -> LimiterView:
    """A limiter without its tasks, which may be of any owner."""
    shown = {name: value for name, value in asdict(state).items() if name in LimiterView.__annotations__}
    times = {"since": state.since, "until": state.until}
    return cast(LimiterView, shown | {name: iso(time) if time else None for name, time in times.items()})


def limiters(inspection: Inspection) -> list[LimiterView]:
    """The limiters used within about an hour, paused or waited for, by name. Raises RedisUnavailable."""
    return [limiter(state) for state in inspection.limiters()]


def schedules(registry: Registry, known: Schedules, count: int = 1) -> list[ScheduleView]:
    """Every schedule with its last run and the next `count`. Raises DatabaseUnavailable."""
    now, rows = clock.utc(), known.rows()
    found: list[ScheduleView] = []
    for name, scheduled in sorted(registry.schedules.items()):
        row = rows.get(name)
        ahead = row.last_tick.replace(tzinfo=dt.UTC) - now if row else dt.timedelta()
        found.append(
            {
                "name": name,
                "type": scheduled.type,
                "schedule": str(scheduled.schedule),
                "last": iso(row.last_tick) if row else None,
                "ahead": ahead.total_seconds() if ahead > AHEAD else None,
                "next": [iso(tick) for tick in scheduled.schedule.upcoming(now, count)],
                "paused": _pause(row),
            }
        )
    return found


def dead_letters(found: Iterable[Unreadable]) -> list[dict[str, str]]:
    """Undecodable messages and events, with their raw bytes in base64."""
    return [
        {
            "id": item.id,
            "at": iso(item.at),
            "source": item.source,
            "reason": item.reason,
            "raw_base64": base64.b64encode(item.raw).decode(),
        }
        for item in found
    ]


def _pause(row: Pause | ScheduleRow | None) -> PauseView | None:
    if row is None or row.paused_at is None:
        return None
    return {"at": iso(row.paused_at), "by": row.paused_by or "", "why": row.paused_why or ""}
