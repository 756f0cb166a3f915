"""A task's state over both stores: its row, and what Redis knows newer.

The one rule: Redis counts, unless the row has ended or belongs to a later attempt. Must not know how long a caller
waits for Redis, nor what a Redis that does not answer means to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sytq.broker.inspection import Inspection, Live
from sytq.ledger.models import Task
from sytq.ledger.values import parsed
from sytq.states import DEAD, RUNNING, SUCCEEDED, TERMINAL


@dataclass(frozen=True, slots=True)
class LiveState:
    """A task at this moment; `set_aside` while its type is paused."""

    state: str
    attempts: int
    worker: str | None
    progress: Any
    set_aside: bool


def newer(inspection: Inspection, rows: Iterable[Task]) -> dict[str, Live]:
    """Return what Redis knows newer than these rows, by id. Raises RedisUnavailable."""
    unfinished = {row.id: row for row in rows if row.state not in TERMINAL}
    live = inspection.live(list(unfinished))
    return {task_id: seen for task_id, seen in live.items() if _is_newer(seen, unfinished[task_id])}


def current(row: Task, live: Live | None, *, with_result: bool = False) -> LiveState:
    """Return the state of a task of which Redis knows `live`.

    `with_result` is for a reader of what came of it: the task runs until its row has the result or the error, which is
    at most a second after its end.
    """
    if live is None or not _is_newer(live, row):
        return LiveState(row.state, row.attempts, row.worker, parsed(row.progress), False)
    state = RUNNING if with_result and live.state in (SUCCEEDED, DEAD) else live.state
    return LiveState(state, live.attempts, live.worker, live.progress or parsed(row.progress), live.parked)


def _is_newer(live: Live, row: Task) -> bool:
    return row.state not in TERMINAL and live.token >= row.token
