"""GET /v2/tasks/{id}/tree: a task, its descendants and their dependencies, as far as the caller may see them."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import number
from sytq.api.v2.task import One
from sytq.ledger.database import read
from sytq.ledger.models import Task
from sytq.service import tree

_LIMIT, _MAX_LIMIT = 200, 1000


class Tree(One):
    """GET /v2/tasks/{task_id}/tree"""

    parameters: ClassVar = {"GET": ("limit",)}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        limit = number(req, "limit", _LIMIT, min_value=1, max_value=_MAX_LIMIT)
        row = await self._row(req, task_id)
        owner = req.context.caller.visible_owner
        visible = None if owner is None else Task.owner == owner
        database = self._parts.runtime.database
        found = await self._parts.sql.run(read, database, lambda: tree.tree(row, limit, visible))
        resp.data = problems.encode(found)
