"""Bulk operations: those that there are, and one with its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import falcon.asgi

from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.tasks import progress
from sytq.api.parameters import parameter
from sytq.api.task_control import TaskControl
from sytq.broker.state_index import Live
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.values import parsed
from sytq.service.task_view import task_view
from sytq.states import TERMINAL
from sytq.tasktypes.registry import Registry

_LIMIT = 50
_NO_REDIS = "Redis does not answer: how far the operation is is missing here."


class Operations(Page):
    """GET /dashboard/operations: bulk operations, latest first."""

    template = "operations.html"
    section = "/tasks"
    parameters: ClassVar = {"GET": ("cursor",)}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        registry = self._parts.runtime.registry
        wanted = req.context.caller.limited(parse(f"type:{registry.of_role('operation').name}"))
        cursor = parameter(req, "cursor")
        page = await self._parts.sql.run(self._parts.search.page, wanted, limit=_LIMIT, after=cursor)
        rows = await self._parts.sql.run(self._parts.runtime.ledger.some, [task.id for task in page.tasks])
        found = [_operation(rows[task.id], None, registry) for task in page.tasks if task.id in rows]
        return {"operations": found, "next": page.next, "cursor": cursor}


class Operation(Page):
    """GET /dashboard/operations/{task_id}"""

    template = "operation.html"
    section = "/tasks"

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        row, live = await self._known(req, path["task_id"])
        operation = _operation(row, live, self._parts.runtime.registry)
        is_old = not operation["ended"] and live is None and self._parts.data_loader.is_redis_away
        return {"operation": operation, "missing": [_NO_REDIS] if is_old else []}

    async def _known(self, req: falcon.asgi.Request, task_id: str) -> tuple[Task, Live | None]:
        """The operation's row, and the newer state from Redis. Raises HTTPNotFound, also for another owner's."""
        row, live = await TaskControl(self._parts).known(req, task_id)
        if row.type != self._parts.runtime.registry.of_role("operation").name:
            raise falcon.HTTPNotFound(description=f"there is no operation {task_id[:64]!r}")
        return row, live


class StopOperation(Operation):
    """POST /dashboard/operations/{task_id}/stop: what it has changed stays changed."""

    async def act(self, req: falcon.asgi.Request, form: Mapping[str, str], **path: str) -> Done:
        row, _ = await self._known(req, path["task_id"])
        outcome = await TaskControl(self._parts).cancel(req, row.id, "stopped")
        said = "The operation is stopped." if outcome == "cancelled" else "The operation runs, and is interrupted."
        return Done(f"/operations/{row.id}", said)


def _operation(row: Task, live: Live | None, registry: Registry) -> dict[str, Any]:
    """What is shown of an operation. The payload is the service's own, see sytq.service.bulk."""
    view, payload, result = task_view(row, registry, live), parsed(row.payload), parsed(row.result)
    return {
        "id": view["id"],
        "state": view["state"],
        "ended": view["state"] in TERMINAL,
        "created_at": view["created_at"],
        "finished_at": view["finished_at"],
        "progress": progress(view),
        "error": view["error"],
        "action": payload["action"],
        "q": payload["q"],
        "by": payload["by"],
        "as_of": payload["as_of"] + "Z",  # naive UTC
        "run_at": payload.get("run_at"),
        "result": result,
    }
