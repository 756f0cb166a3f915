"""The workers: what each says of itself, and what runs on it now."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import falcon.asgi

from sytq.api.dashboard.page import Page
from sytq.api.dashboard.stores import gathered, visible
from sytq.broker.pages import InFlight
from sytq.service import status

#: Tasks that are shown of all that run.
_MAX_RUNNING = 200
_MAX_WORKERS = 500


class Workers(Page):
    """GET /dashboard/workers"""

    template = "workers.html"
    section = "/workers"
    is_shared = True

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime, redis = self._parts.runtime, self._parts.redis
        found = await gathered(
            workers=redis.run(status.workers, runtime.inspection, runtime.cards, runtime.settings.worker.liveness),
            running=redis.run(runtime.inspection.running, limit=_MAX_RUNNING),
            suspects=redis.run(runtime.inspection.suspects),
        )
        tasks: list[InFlight] = found["running"].items if found["running"] else []
        seen = await gathered(ids=visible(self._parts, req.context.caller, [task.id for task in tasks]))
        shown = [task for task in tasks if task.id in (seen["ids"] or ())]
        shown.sort(key=lambda task: (task.worker, -task.seconds))
        workers = found["workers"] or []
        return {
            "missing": [*found["missing"], *(text for text in seen["missing"] if text not in found["missing"])],
            "workers": workers[:_MAX_WORKERS],
            "count": len(workers),
            "running": {worker: list(those) for worker, those in groupby(shown, key=lambda task: task.worker)},
            "tasks": shown,
            "is_all": found["running"] is None or found["running"].next is None,
            "suspects": {name: each for name, each in (found["suspects"] or {}).items() if each.waiting},
        }
