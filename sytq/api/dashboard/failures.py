"""Dead tasks by cause, and the way to retry each group."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import falcon.asgi

from sytq.api.dashboard.page import Page
from sytq.api.parameters import parameter
from sytq.ledger.failures import PERIODS, Failures
from sytq.service.failures import CauseView, failures


class FailuresPage(Page):
    """GET /dashboard/failures"""

    template = "failures.html"
    section: ClassVar[str] = "/failures"
    parameters: ClassVar = {"GET": ("period", "type")}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime = self._parts.runtime
        period, type_name = parameter(req, "period") or "day", parameter(req, "type")
        owner = req.context.caller.visible_owner
        found = await self._parts.sql.run(
            failures, Failures(runtime.database), period, owner=owner, type_name=type_name
        )
        return {
            **found,
            "tasks": sum(cause["tasks"] for cause in found["failures"]),
            "trends": [_trend(cause, PERIODS[period][1]) for cause in found["failures"]],
            "type": type_name,
            "types": sorted(declared.name for declared in runtime.registry),
            "periods": list(PERIODS),
        }


def _trend(cause: CauseView, step: int) -> dict[str, Any]:
    """Bars of a small chart: each step from the first to the last one has its part of the highest."""
    counts = {dt.datetime.fromisoformat(point["at"]).timestamp(): point["tasks"] for point in cause["trend"]}
    first, last = int(min(counts)), int(max(counts))
    bars = [counts.get(at, 0) for at in range(first, last + step, step)][-60:]
    highest = max(bars)
    return {"bars": [round(20 * count / highest) if count else 0 for count in bars], "highest": highest, "step": step}
