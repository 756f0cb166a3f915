"""POST /v2/limiters/pause and resume, types and queues too: for the tasks of all owners, therefore by admins alone."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.body import read_object
from sytq.api.parts import Resource
from sytq.api.v2.requests import LimiterPause, LimiterResumption
from sytq.tasktypes.payload import validated


class PauseLimiter(Resource):
    """POST /v2/limiters/pause"""

    scopes: ClassVar = {"POST": "admin"}

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        wanted = validated(LimiterPause, read_object(req), "body")
        pause = self._parts.runtime.pausing.pause
        await self._parts.redis.finish(pause, wanted.limiter, req.context.caller.name, wanted.why)
        req.context.audit_detail = f"{wanted.limiter}: {wanted.why}"
        resp.data = problems.encode({"limiter": wanted.limiter, "paused": True})


class ResumeLimiter(Resource):
    """POST /v2/limiters/resume"""

    scopes: ClassVar = {"POST": "admin"}

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        name = validated(LimiterResumption, read_object(req), "body").limiter
        resumed = await self._parts.redis.finish(self._parts.runtime.pausing.resume, name)
        req.context.audit_detail = name if resumed else None
        ended = resumed.held or None
        resp.data = problems.encode({"limiter": name, "paused": False, "ended": ended, "waiting": resumed.waiting})
