"""Looking tasks up: contract A's GET /api/tasks/{id} and GET /api/tasks.

Owns the words of contract A and the union of the two stores: the ledger's row, and what Redis knows newer.
Must not change a task.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from typing import Any

import falcon
import falcon.asgi

from sytq.api import problems
from sytq.api.data_loader import DataLoader
from sytq.api.live import LiveView
from sytq.api.parameters import number, parameter
from sytq.api.threads import Threads
from sytq.broker.inspection import Live
from sytq.errors import InvalidInput
from sytq.ledger.ledger import Ledger, utcnow
from sytq.ledger.models import Task
from sytq.states import CANCELLED, DEAD, QUEUED, RETRYING, RUNNING, SCHEDULED, SUCCEEDED
from sytq.tasktypes.registry import Registry

#: Our states in contract A's words.
STATUS = {
    QUEUED: "pending",
    RUNNING: "active",
    SUCCEEDED: "completed",
    DEAD: "failed",
    RETRYING: "retry",
    CANCELLED: "archived",
    SCHEDULED: "scheduled",
}
_STATE = {status: state for state, status in STATUS.items()}
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LIMIT, _LIMIT_MAX = 10, 100


class Lookup:
    """What both endpoints share: the stores, and a task in contract A's form."""

    def __init__(
        self, ledger: Ledger, registry: Registry, live: LiveView, reader: DataLoader, sql: Threads, retention: float
    ) -> None:
        self.ledger = ledger
        self.live = live
        self.reader = reader
        self.sql = sql
        self.retention = dt.timedelta(seconds=retention)
        self._registry = registry

    def shown(self, row: Task, live: Live | None) -> dict[str, Any]:
        """The fields of contract A."""
        state = live.state if live else row.state
        attempts = live.attempts if live else row.attempts
        return {
            "task_id": row.id,
            "status": STATUS[state],
            "queue_name": row.queue or self._default_queue(row.type),
            "created_at": calendar.timegm(row.created_at.timetuple()),
            # While it waits for its next attempt every one so far was a failure.
            "retry_count": attempts if state == RETRYING else max(0, attempts - 1),
            "type": row.type,
        }

    def _default_queue(self, type_name: str) -> str:
        return self._registry.get(type_name).queue if type_name in self._registry else "default"


class OneTask:
    """GET /api/tasks/{task_id}"""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row, live = await self._lookup.reader.get(task_id)
        hidden = row is None or not req.context.caller.sees(row.owner)
        if row is None or hidden or (row.finished_at and row.finished_at < utcnow() - self._lookup.retention):
            raise falcon.HTTPNotFound(description="task not found")
        shown = self._lookup.shown(row, live)
        resp.data = problems.encode({"code": 200, "message": "Success", "data": shown})


class TaskList:
    """GET /api/tasks"""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        status, queue = parameter(req, "status"), parameter(req, "queue_name")
        if status is not None and status not in _STATE:
            raise InvalidInput("status", f"{status[:64]!r} is not valid; valid: {', '.join(_STATE)}")
        if queue is not None and not _QUEUE.fullmatch(queue):
            raise InvalidInput("queue_name", "must be 1 to 64 letters, digits, '_', '.' or '-'")
        limit = min(number(req, "limit", _LIMIT, least=1), _LIMIT_MAX)
        offset = number(req, "offset", 0, least=0)
        caller = req.context.caller
        rows, total = await self._lookup.sql.run(
            self._lookup.ledger.find,
            states=[_STATE[status]] if status else (),
            queue=queue,
            owner=None if caller.is_admin else caller.owner,
            limit=limit,
            offset=offset,
        )
        # A list by status is the ledger's, so that it shows what it was asked for.
        live = {} if status else await self._lookup.live.of(rows)
        tasks = [self._lookup.shown(row, live.get(row.id)) for row in rows]
        data = {"tasks": tasks, "total_count": total, "limit": limit, "offset": offset}
        resp.data = problems.encode({"code": 200, "message": "Success", "data": data})
