"""The first page: whether all is well, and what waits and runs."""

from __future__ import annotations

from typing import Any, ClassVar

import falcon.asgi

from sytq.api.dashboard.page import Page
from sytq.service import status


class Overview(Page):
    """GET /dashboard"""

    template = "overview.html"
    section: ClassVar[str] = ""

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime = self._parts.runtime
        queues = await self._parts.redis.run(
            status.queues, runtime.inspection, runtime.registry, runtime.settings.queues
        )
        return {"queues": queues}
