"""GET and DELETE /v2/tasks/{id}, its tree, and cancel, retry and reschedule of one task."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.body import read_object
from sytq.api.parameters import number
from sytq.api.parts import Parts, Resource
from sytq.api.task_control import TaskControl, detail
from sytq.api.v2.requests import Cancellation, NewTime, start_of
from sytq.api.v2.waiting import add_etag, wait_preferred
from sytq.ledger.values import iso
from sytq.states import TERMINAL
from sytq.tasktypes.payload import validated

_TREE_LIMIT, _MAX_TREE_LIMIT = 200, 1000


class One(Resource):
    """A resource below one task."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._control = TaskControl(parts)


class OneTask(One):
    """GET and DELETE /v2/tasks/{task_id}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row, live = await self._control.known(req, task_id)
        if row.state not in TERMINAL and await wait_preferred(self._parts, req, resp, row.id):
            row, live = await self._control.known(req, task_id)
        resp.data = problems.encode(await detail(self._parts, row, live))
        add_etag(req, resp)

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        await self._control.delete(req, task_id)
        resp.status = falcon.HTTP_204


class Tree(One):
    """GET /v2/tasks/{task_id}/tree"""

    parameters: ClassVar = {"GET": ("limit",)}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        limit = number(req, "limit", _TREE_LIMIT, min_value=1, max_value=_MAX_TREE_LIMIT)
        row = await self._control.row(req, task_id)
        resp.data = problems.encode(await self._control.tree(req, row, limit))


class Cancel(One):
    """POST /v2/tasks/{task_id}/cancel"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        why = validated(Cancellation, read_object(req, required=False), "body").reason
        outcome = await self._control.cancel(req, task_id, why)
        resp.status = falcon.HTTP_200 if outcome == "cancelled" else falcon.HTTP_202
        resp.data = problems.encode({"id": task_id, "outcome": outcome})


class Retry(One):
    """POST /v2/tasks/{task_id}/retry"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        await self._control.retry(req, task_id)
        resp.status = falcon.HTTP_202
        resp.data = problems.encode({"id": task_id, "outcome": "queued"})


class Reschedule(One):
    """POST /v2/tasks/{task_id}/reschedule"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        moment = start_of(validated(NewTime, read_object(req), "body"))
        await self._control.reschedule(req, task_id, moment)
        resp.data = problems.encode({"id": task_id, "outcome": "rescheduled", "scheduled_at": iso(moment)})
