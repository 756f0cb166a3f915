"""GET /v2/spend: the cost of provider calls, summed. Callers other than admins see only their own tasks."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar, NotRequired

import falcon.asgi
from typing_extensions import TypedDict

from sytq.api import problems
from sytq.api.openapi import contracts
from sytq.api.openapi.declared import Answer, Operation, query
from sytq.api.parameters import number, parameter
from sytq.api.parts import Parts
from sytq.errors import InvalidInput

from . import spend
from .config import LlmSettings

_MAX_LIMIT = 1000

_BY = query("by", "What to group the calls by", {"type": "string", "enum": ["", *spend.GROUPS]})
_SINCE = query(
    "since", "The first day (UTC) whose calls are counted", contracts.or_empty({"type": "string", "format": "date"})
)
_LIMIT = query(
    "limit", "Maximum number of groups", contracts.or_empty({"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT})
)


class Sum(TypedDict):
    """Calls, tokens and cost of one group. `unknown` is the number of calls without a known cost."""

    day: NotRequired[str]
    provider: NotRequired[str]
    model: NotRequired[str]
    type: NotRequired[str]
    owner: NotRequired[str | None]
    table_name: NotRequired[str | None]
    row_id: NotRequired[int | None]
    task_id: NotRequired[str]
    calls: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    cost: str
    unknown: int


class Spend(TypedDict):
    """The cost of provider calls, grouped by `by`."""

    by: str
    currency: str
    sums: list[Sum]


class Sums:
    """GET: one sum for each of `by`, the costliest first (days in order)."""

    parameters: ClassVar = {"GET": ("by", "since", "limit")}
    operations: ClassVar = (
        Operation(
            "get",
            "/v2/spend",
            "spend",
            "Sum the cost of provider calls",
            "service",
            {200: Answer("Calls, tokens and cost by group", Spend)},
            refusals=(400,),
            parameters=(_BY, _SINCE, _LIMIT),
        ),
    )

    def __init__(self, parts: Parts) -> None:
        self._runtime = parts.runtime
        self._sql = parts.sql

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        by = parameter(req, "by") or "day"
        if by not in spend.GROUPS:
            raise InvalidInput("by", f"{by[:32]!r} is not valid; valid: {', '.join(spend.GROUPS)}")
        limit = number(req, "limit", 100, min_value=1, max_value=_MAX_LIMIT)
        caller = req.context.caller
        owner = None if caller.is_admin else (caller.owner or "")
        database, since = self._runtime.database, _day(parameter(req, "since"))
        sums = await self._sql.run(spend.summary, database, by, since=since, owner=owner, limit=limit)
        resp.data = problems.encode(
            {"by": by, "currency": self._runtime.settings.of(LlmSettings).llm.currency, "sums": sums}
        )


def _day(text: str | None) -> dt.date | None:
    if text is None:
        return None
    try:
        if len(text) != len("2026-07-01"):
            raise ValueError
        return dt.date.fromisoformat(text)
    except ValueError:
        raise InvalidInput("since", f"{text[:32]!r} is not valid; valid: a UTC day such as 2026-07-01") from None
