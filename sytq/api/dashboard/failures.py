"""Dead tasks by cause, and the way to retry each group."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, ClassVar

import falcon.asgi

from sytq.api.dashboard.page import Page
from sytq.api.parameters import parameter
from sytq.ledger.failures import PERIODS, Failures, begin
from sytq.ledger.values import to_ms, utcnow
from sytq.service.failures import CauseView, failures

_MAX_BARS = 60


class FailuresPage(Page):
    """GET /dashboard/failures"""

    template = "failures.html"
    section: ClassVar[str] = "/failures"
    is_shared = True
    parameters: ClassVar = {"GET": ("period", "type")}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime = self._parts.runtime
        period, type_name = parameter(req, "period") or "day", parameter(req, "type")
        owner = req.context.caller.visible_owner
        found = await self._parts.sql.run(
            failures, Failures(runtime.database), period, owner=owner, type_name=type_name
        )
        axis = _axis(found["failures"], period)
        return {
            **found,
            "tasks": sum(cause["tasks"] for cause in found["failures"]),
            "trends": [_trend(cause, axis) for cause in found["failures"]],
            "type": type_name,
            "types": sorted(declared.name for declared in runtime.registry),
            "periods": list(PERIODS),
        }


def _axis(causes: Sequence[CauseView], period: str) -> range:
    """The steps of all charts of a page, in Unix seconds: from the begin of the period, or the first death, to now."""
    step, since = PERIODS[period][1], begin(period)
    if since is None:
        since = min((_seconds(point["at"]) for cause in causes for point in cause["trend"]), default=0)
    return range(since // step * step, to_ms(utcnow()) // 1000 + 1, step)[-_MAX_BARS:]


def _trend(cause: CauseView, axis: range) -> dict[str, Any]:
    """Bars of a small chart: each step has its part of the highest."""
    counts = {_seconds(point["at"]): point["tasks"] for point in cause["trend"]}
    bars = [counts.get(at, 0) for at in axis]
    highest = max(bars, default=0)
    heights = [max(1, round(20 * count / highest)) if count else 0 for count in bars]
    return {"bars": heights, "highest": highest, "step": axis.step}


def _seconds(at: str) -> int:
    return int(dt.datetime.fromisoformat(at).timestamp())
