"""The data of `sytq top` at one moment. An unavailable store is named; the rest is still shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peewee

from sytq import clock
from sytq.broker.limiter_states import that_matter
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.query import parse
from sytq.ledger.search import Search
from sytq.ledger.values import iso
from sytq.runtime import Runtime
from sytq.service import status
from sytq.service.task_view import task_view
from sytq.states import DEAD, TERMINAL

_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts by (type, outcome) since this Redis was first seen; `at` is this process's monotonic clock."""

    at: float
    counts: Mapping[tuple[str, str], int]


def totals(parts: Runtime) -> Totals | None:
    """The counts now; None while Redis is unavailable."""
    try:
        return Totals(time.monotonic(), parts.inspection.totals())
    except RedisUnavailable:
        return None


def snapshot(parts: Runtime, before: Totals | None, now: Totals | None) -> dict[str, Any]:
    """The whole snapshot; `rates` are computed between the two counts."""
    shown: dict[str, Any] = {
        "at": iso(clock.now()),
        "unavailable": [],
        "workers": None,
        "rates": _rates(before, now),
        "queues": [],
        "gates": [],
        "recorder": None,
        "failures": [],
    }
    try:
        workers = status.workers(parts.inspection, parts.cards, parts.settings.worker.liveness)
        alive = sum(worker["alive"] for worker in workers)
        shown["workers"] = {"alive": alive, "lost": len(workers) - alive}
        shown["queues"] = status.queues(parts.inspection, parts.registry, parts.settings.queue_limits)
        limiters = that_matter(parts.inspection.limiters())
        keys = ("name", "state", "running", "limit_now", "waiting", "reason")
        shown["gates"] = [{key: getattr(limiter, key) for key in keys} for limiter in limiters]
        unwritten = parts.inspection.unwritten()
        shown["recorder"] = {"waiting": unwritten.count, "seconds": unwritten.age}
    except RedisUnavailable as error:
        shown["unavailable"].append(str(error))
    try:
        page = Search(parts.database).page(parse(f"state:{DEAD}"), limit=_FAILURES)
        views: list[Mapping[str, object]] = [task_view(task, parts.registry) for task in page.tasks]
        fields = ("id", "type", "attempts", "error", "finished_at")
        shown["failures"] = [{field: view[field] for field in fields} for view in views]
    except (DatabaseUnavailable, peewee.PeeweeException) as error:  # the second: not migrated yet
        shown["unavailable"].append(f"database: {error}" if isinstance(error, DatabaseUnavailable) else "no tables yet")
    return shown


def _rates(before: Totals | None, now: Totals | None) -> list[dict[str, Any]]:
    """Tasks per second by type: submitted and ended, by outcome."""
    if before is None or now is None:
        return []
    seconds = max(now.at - before.at, 1e-3)
    names = sorted({name for name, _ in now.counts})
    rates = []
    for name in names:
        one: dict[str, Any] = {"type": name}
        for outcome in ("submitted", *TERMINAL):
            count = now.counts.get((name, outcome), 0)
            # A Redis that was emptied in between counts from 0.
            one[outcome] = round(max(count - before.counts.get((name, outcome), 0), 0) / seconds, 2)
        rates.append(one)
    return rates
