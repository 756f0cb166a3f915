"""GET /v2/failures: dead tasks by cause."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import parameter
from sytq.api.parts import Resource
from sytq.ledger.failures import Failures as Known
from sytq.service.failures import failures


class Failures(Resource):
    """Without the scope admin, only the owner's tasks."""

    parameters: ClassVar = {"GET": ("period", "type")}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        known = Known(self._parts.runtime.database)
        period = parameter(req, "period") or "day"
        owner, type_name = req.context.caller.visible_owner, parameter(req, "type")
        resp.data = problems.encode(
            await self._parts.sql.run(failures, known, period, owner=owner, type_name=type_name)
        )
