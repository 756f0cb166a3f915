"""GET /v2/spend: what the calls of providers cost, summed.

Owns the path; the sums are `sytq.ledger.spend`'s. A caller that is no admin sees the spend of its own tasks alone.
"""

from __future__ import annotations

import datetime as dt

import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import number, only, parameter
from sytq.api.parts import Parts
from sytq.errors import InvalidInput
from sytq.ledger import spend

_LIMIT_MAX = 1000


class Spend:
    """GET: one sum for each of `by`, the costliest first (days in order)."""

    def __init__(self, parts: Parts) -> None:
        self._runtime = parts.runtime
        self._sql = parts.sql

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        only(req, ("by", "since", "limit"))
        by = parameter(req, "by") or "day"
        if by not in spend.GROUPS:
            raise InvalidInput("by", f"{by[:32]!r} is not valid; valid: {', '.join(spend.GROUPS)}")
        limit = number(req, "limit", 100, least=1)
        if limit > _LIMIT_MAX:
            raise InvalidInput("limit", f"{limit} is more than {_LIMIT_MAX}")
        caller = req.context.caller
        owner = None if caller.is_admin else (caller.owner or "")
        database, since = self._runtime.database, _day(parameter(req, "since"))
        sums = await self._sql.run(spend.summary, database, by, since=since, owner=owner, limit=limit)
        resp.data = problems.encode({"by": by, "currency": self._runtime.settings.llm.currency, "sums": sums})


def _day(text: str | None) -> dt.date | None:
    if text is None:
        return None
    try:
        if len(text) != len("2026-07-01"):
            raise ValueError
        return dt.date.fromisoformat(text)
    except ValueError:
        raise InvalidInput("since", f"{text[:32]!r} is not valid; valid: a UTC day such as 2026-07-01") from None
