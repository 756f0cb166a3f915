"""GET and DELETE /v2/tasks/{id}, its tree, and cancel, retry and reschedule of one task."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import falcon
import falcon.asgi

from sytq import clock
from sytq.api import problems
from sytq.api.body import read_object
from sytq.api.parameters import number
from sytq.api.parts import Parts
from sytq.api.v2.requests import Cancellation, NewTime, when
from sytq.api.v2.resource import Resource
from sytq.api.v2.waiting import add_etag, wait_preferred
from sytq.broker.state_index import Live
from sytq.errors import InvalidInput, Overloaded, RedisUnavailable
from sytq.ledger.database import read
from sytq.ledger.models import Task
from sytq.ledger.values import iso
from sytq.service.live_state import current
from sytq.service.task_view import task_detail
from sytq.service.tree import tree
from sytq.states import CANCELLED, DEAD, RETRYING, RUNNING, TERMINAL
from sytq.tasktypes.payload import validated

_TREE_LIMIT, _MAX_TREE_LIMIT = 200, 1000


async def detail(parts: Parts, row: Task, live: Live | None) -> bytes:
    """All details of a task, as JSON."""
    asked = limiter = None
    inspection = parts.runtime.inspection
    with contextlib.suppress(RedisUnavailable, Overloaded):
        if live is not None and live.state == RUNNING:
            asked = (await parts.redis.run(inspection.cancels, [row.id])).get(row.id)
        elif live is not None and live.state == RETRYING:
            limiter = await parts.redis.run(inspection.waits_for, row.id)
    history = await parts.data_loader.history(row.id)
    return problems.encode(task_detail(row, parts.runtime.registry, live, asked, history, limiter=limiter))


class One(Resource):
    """A resource below one task."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._operator = parts.runtime.operator

    async def _row(self, req: falcon.asgi.Request, task_id: str) -> Task:
        """The task's row. Raises HTTPNotFound, also for another owner's."""
        return (await self._known(req, task_id))[0]

    async def _known(self, req: falcon.asgi.Request, task_id: str) -> tuple[Task, Live | None]:
        """The row and the newer state from Redis. Raises HTTPNotFound."""
        row, live = await self._parts.data_loader.get(task_id)
        if row is None or not req.context.caller.can_see(row.owner):
            raise falcon.HTTPNotFound(description=f"there is no task {task_id[:64]!r}")
        return row, live

    async def _state(self, req: falcon.asgi.Request, task_id: str) -> str:
        """The state as Redis knows it, which the row may not say yet. Raises HTTPNotFound."""
        return current(*await self._known(req, task_id)).state


class OneTask(One):
    """GET and DELETE /v2/tasks/{task_id}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row, live = await self._known(req, task_id)
        if row.state not in TERMINAL and await wait_preferred(self._parts, req, resp, row.id):
            row, live = await self._known(req, task_id)
        resp.data = await detail(self._parts, row, live)
        add_etag(req, resp)

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row = await self._row(req, task_id)
        if not await self._parts.sql.run(self._operator.delete, [row.id]):
            if row.state in TERMINAL:
                said = "an unfinished parent or dependent may still read the outcome of this task"
                raise falcon.HTTPConflict(description=said)
            raise _conflict(row.state, f"only a finished task can be deleted ({', '.join(TERMINAL)})")
        resp.status = falcon.HTTP_204


class Tree(One):
    """GET /v2/tasks/{task_id}/tree"""

    parameters: ClassVar = {"GET": ("limit",)}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        limit = number(req, "limit", _TREE_LIMIT, min_value=1, max_value=_MAX_TREE_LIMIT)
        row = await self._row(req, task_id)
        owner = req.context.caller.visible_owner
        visible = None if owner is None else Task.owner == owner
        database = self._parts.runtime.database
        found = await self._parts.sql.run(read, database, lambda: tree(row, limit, visible))
        resp.data = problems.encode(found)


class Cancel(One):
    """POST /v2/tasks/{task_id}/cancel"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        why = validated(Cancellation, read_object(req, required=False), "body").reason
        row = await self._row(req, task_id)
        outcome = await self._parts.sql.run(self._operator.cancel, row.id, by=signed(req, why))
        if outcome == "ended":
            raise _conflict(await self._state(req, task_id), "only an unfinished task can be cancelled")
        resp.status = falcon.HTTP_200 if outcome == "cancelled" else falcon.HTTP_202
        resp.data = problems.encode({"id": row.id, "outcome": outcome})


class Retry(One):
    """POST /v2/tasks/{task_id}/retry"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row = await self._row(req, task_id)
        if not await self._parts.sql.run(self._operator.replay, [row.id]):
            row = await self._row(req, task_id)
            if row.state in (DEAD, CANCELLED):
                raise falcon.HTTPConflict(description="another unfinished task has its unique key")
            raise _conflict(row.state, "only a dead or cancelled task can be retried")
        resp.status = falcon.HTTP_202
        resp.data = problems.encode({"id": row.id, "outcome": "queued"})


class Reschedule(One):
    """POST /v2/tasks/{task_id}/reschedule"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        wanted = validated(NewTime, read_object(req), "body")
        if wanted.delay is None and wanted.run_at is None:
            raise InvalidInput("run_at", "required, or delay")
        moment = when(wanted) or clock.utc()
        row = await self._row(req, task_id)
        if not await self._parts.sql.run(self._operator.reschedule, row.id, moment):
            raise _conflict(await self._state(req, task_id), "only a scheduled or retrying task can be rescheduled")
        resp.data = problems.encode({"id": row.id, "outcome": "rescheduled", "scheduled_at": iso(moment)})


def signed(req: falcon.asgi.Request, why: str) -> str:
    """The caller and its reason, as one line that is shown with the task."""
    owner = req.context.caller.owner or "the API"
    words = " ".join(why.split())
    return f"{owner}: {words}" if words else owner


def _conflict(state: str, why: str) -> falcon.HTTPConflict:
    return falcon.HTTPConflict(description=f"the task is {state}: {why}")
