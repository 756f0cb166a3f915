"""The queues: what waits, runs and is limited in each; pause and resume of all types of one."""

from __future__ import annotations

from typing import Any, ClassVar

import falcon.asgi
from multidict import MultiDict

from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.pausing import LATER, SCOPES, reason
from sytq.api.dashboard.stores import gathered
from sytq.errors import RedisUnavailable
from sytq.service import status


class Queues(Page):
    """GET /dashboard/queues"""

    template = "queues.html"
    section = "/queues"
    is_shared = True

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime = self._parts.runtime
        queues = self._parts.redis.run(
            status.queues, runtime.inspection, runtime.registry, runtime.settings.queue_limits
        )
        found = await gathered(queues=queues)
        return found | {"names": sorted(runtime.registry.queues)}


class OneQueue(Page):
    """GET /dashboard/queues/{name}"""

    template = "queue.html"
    section = "/queues"
    scopes: ClassVar = SCOPES

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        name, runtime = path["name"], self._parts.runtime
        found = await gathered(
            queues=self._parts.redis.run(
                status.queues, runtime.inspection, runtime.registry, runtime.settings.queue_limits
            ),
            pauses=self._parts.sql.run(runtime.operator.pauses),
        )
        queue = next((each for each in found["queues"] or () if each["queue"] == name), None)
        if queue is None and (found["queues"] is not None or name not in runtime.registry.queues):
            raise falcon.HTTPNotFound(description=f"there is no queue {name[:64]!r}")
        types = [each for each in status.types(runtime.registry, found["pauses"] or ()) if each["queue"] == name]
        return {"name": name, "queue": queue, "types": types, "missing": found["missing"]}


class PauseQueue(OneQueue):
    """POST /dashboard/queues/{name}/pause"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name, why, operator = path["name"], reason(form), self._parts.runtime.operator
        try:
            paused = await self._parts.sql.finish(operator.pause_queue, name, by=req.context.caller.name, why=why)
            said = f"Paused: {', '.join(paused)}" if paused else f"All types of {name} were paused already"
        except RedisUnavailable:
            said = f"The types of {name} are paused. {LATER}"
        req.context.audit_detail = why
        return Done(f"/queues/{name}", said)


class ResumeQueue(OneQueue):
    """POST /dashboard/queues/{name}/resume"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name = path["name"]
        try:
            resumed = await self._parts.sql.finish(self._parts.runtime.operator.resume_queue, name)
            said = f"Resumed: {', '.join(resumed)}" if resumed else f"No type of {name} was paused"
        except RedisUnavailable:
            said = f"The types of {name} are resumed. {LATER}"
        return Done(f"/queues/{name}", said)
