"""Contract A: an LLM task for a row that the caller inserted, and lookups of tasks."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from typing import Any, ClassVar

import falcon.asgi
from sytq_plugins.llm.config import LlmSettings

from sytq.api import problems
from sytq.api.body import record_id, text
from sytq.api.compat.body import read_object
from sytq.api.parts import Parts
from sytq.broker.state_index import Live
from sytq.errors import InvalidInput
from sytq.ledger.models import Task
from sytq.ledger.values import utcnow
from sytq.service.live_state import current
from sytq.states import CANCELLED, DEAD, QUEUED, RETRYING, RUNNING, SCHEDULED, SUCCEEDED

#: The task type of a valuation.
TYPE = "llm"
#: States in contract A's words.
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
_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_MAX_INT = 2**63 - 1
#: The only queue of the replaced service, in which its valuations were.
_OLD_QUEUE = "default"
_NAMES = frozenset(("table_name", "id"))
_LIMIT, _MAX_LIMIT = 10, 100


class RecordTasks:
    """POST /api/tasks/llm"""

    scopes: ClassVar = {"POST": "submit"}

    def __init__(self, parts: Parts) -> None:
        self._tables = frozenset(parts.runtime.settings.of(LlmSettings).llm.tables)
        self._submission = parts.submission

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        fields = read_object(req, _NAMES)
        table = text(fields, "table_name", required=True)
        if table not in self._tables:
            raise InvalidInput(
                "table_name",
                f"{(table or '')[:64]!r} is not a configured table; valid: {', '.join(sorted(self._tables))}",
            )
        task_id = await self._submission.enqueue(req, TYPE, {"table_name": table, "id": record_id(fields, "id")})
        resp.data = _success({"task_id": task_id, "status": "enqueued"})


class _Lookup:
    """A resource that shows tasks in contract A's form."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._retention = dt.timedelta(seconds=parts.runtime.settings.retention)

    def _shown(self, row: Task, live: Live | None) -> dict[str, Any]:
        now = current(row, live, with_result=True)  # who reads "completed" here reads the result next
        return {
            "task_id": row.id,
            "status": STATUS[now.state],
            "queue_name": row.queue or self._parts.runtime.registry.queue_of(row.type),
            "created_at": calendar.timegm(row.created_at.timetuple()),
            # While a task waits for its next attempt, all attempts so far have failed.
            "retry_count": now.attempts if now.state == RETRYING else max(0, now.attempts - 1),
            "type": row.type,
        }


class OneTask(_Lookup):
    """GET /api/tasks/{task_id}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row, live = await self._parts.data_loader.get(task_id)
        hidden = row is None or not req.context.caller.can_see(row.owner)
        if row is None or hidden or (row.finished_at and row.finished_at < utcnow() - self._retention):
            raise falcon.HTTPNotFound(description="task not found")
        resp.data = _success(self._shown(row, live))


class TaskList(_Lookup):
    """GET /api/tasks. No parameter is refused: the callers of the replaced service rely on that."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        status, queue = _first(req, "status"), _first(req, "queue_name")
        limit = min(_whole(req, "limit") or _LIMIT, _MAX_LIMIT)
        offset = _whole(req, "offset")
        rows: list[Task] = []
        total = 0
        if (not status or status in _STATE) and (not queue or _QUEUE.fullmatch(queue)):
            rows, total = await self._parts.sql.run(
                self._parts.runtime.ledger.find,
                states=[_STATE[status]] if status else (),
                queue=queue or None,
                or_type=TYPE if queue == _OLD_QUEUE else None,
                owner=req.context.caller.visible_owner,
                limit=limit,
                offset=offset,
            )
        # A list by status shows the ledger's states, so that they match the filter.
        live = {} if status else await self._parts.data_loader.newer(rows)
        tasks = [self._shown(row, live.get(row.id)) for row in rows]
        resp.data = _success({"tasks": tasks, "total_count": total, "limit": limit, "offset": offset})


def _first(req: falcon.asgi.Request, name: str) -> str:
    """The first value of a parameter, "" without one."""
    value = req.params.get(name, "")
    return value[0] if isinstance(value, list) else value


def _whole(req: falcon.asgi.Request, name: str) -> int:
    """A number from 1; else 0."""
    value = _first(req, name)
    number = int(value) if len(value) <= 20 and _WHOLE.fullmatch(value) else 0
    return number if 0 < number <= _MAX_INT else 0


def _success(data: dict[str, Any]) -> bytes:
    return problems.encode({"code": 200, "message": "Success", "data": data})
