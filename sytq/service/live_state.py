"""A task's state from both stores: Redis takes precedence, unless the row has ended or has a later attempt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sytq.broker.inspection import Inspection
from sytq.broker.state_index import Live
from sytq.ledger.models import Task
from sytq.ledger.values import parsed
from sytq.states import DEAD, RUNNING, SUCCEEDED, TERMINAL


@dataclass(frozen=True, slots=True)
class LiveState:
    """The current state of a task; `set_aside` while its type is paused, `suspect` while it waits to run alone."""

    state: str
    attempts: int
    worker: str | None
    progress: Any
    set_aside: bool
    suspect: bool = False


def newer(inspection: Inspection, rows: Iterable[Task]) -> dict[str, Live]:
    """Return the states that are newer in Redis than in these rows, by id. Raises RedisUnavailable."""
    unfinished = {row.id: row for row in rows if row.state not in TERMINAL}
    live = inspection.live(list(unfinished))
    return {task_id: seen for task_id, seen in live.items() if _is_newer(seen, unfinished[task_id])}


def current(row: Task, live: Live | None, *, with_result: bool = False) -> LiveState:
    """Return the state of a task with the state `live` in Redis.

    `with_result` is for readers of the result: the task counts as running until its row has the result or error, at
    most a second after its end.
    """
    if live is None or not _is_newer(live, row):
        return LiveState(row.state, row.attempts, row.worker, parsed(row.progress), False)
    state = RUNNING if with_result and live.state in (SUCCEEDED, DEAD) else live.state
    return LiveState(
        state, live.attempts, live.worker, live.progress or parsed(row.progress), live.parked, live.suspect
    )


def _is_newer(live: Live, row: Task) -> bool:
    return row.state not in TERMINAL and live.token >= row.token
