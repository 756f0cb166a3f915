"""A task as JSON, for the session of the dashboard: /v2 does not take its cookie."""

from __future__ import annotations

import falcon.asgi

from sytq.api import problems
from sytq.api.parts import Parts
from sytq.api.task_control import TaskControl, detail
from sytq.api.v2.resource import Resource
from sytq.config.masking import masked


class RawTask(Resource):
    """GET /dashboard/tasks/{task_id}/raw: the whole task as JSON, with what is secret masked"""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._control = TaskControl(parts)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row, live = await self._control.known(req, task_id)
        try:
            found = await detail(self._parts, row, live)
            resp.data = await self._parts.sql.run(lambda: problems.encode(masked("", found)))
        except RecursionError:  # of another program's row: a submission has a bounded depth
            raise falcon.HTTPUnprocessableEntity(description="the task is nested too deeply to be shown") from None
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Content-Type-Options", "nosniff")
