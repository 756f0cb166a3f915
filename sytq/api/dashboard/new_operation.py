"""A new bulk operation: what it would change, and the confirmation."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon.asgi

from sytq import clock
from sytq.api.dashboard.page import Done, Page
from sytq.api.task_control import signed
from sytq.api.v2.requests import NewOperation as Asked
from sytq.api.v2.requests import when
from sytq.errors import InvalidInput
from sytq.ledger.search import Count
from sytq.service.bulk import ACTIONS, Plan, description, plan
from sytq.tasktypes.payload import validated

#: Above so many tasks the number is typed as a confirmation.
TYPED_ABOVE = 1000
#: For how long a count holds: an operation changes nothing that came or ended after it.
_HOLDS = dt.timedelta(hours=1)


class NewOperation(Page):
    """GET /dashboard/operations/new counts; POST starts the operation that was counted.

    The form carries the time of the count and its number. The operation is as of that time, so what has come in since
    stays as it is. Tasks of the count can have changed: fewer is no harm, more is asked again.
    """

    template = "new_operation.html"
    section = "/tasks"
    scopes: ClassVar = {"GET": "operate", "POST": "operate"}
    parameters: ClassVar = {"GET": ("action", "q", "id"), "POST": ("action", "q", "id")}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        action, text = req.params.get("action") or "retry", _query(req)
        names: dict[str, Any] = {"action": action, "q": text, "actions": list(ACTIONS), "plan": None}
        names |= {"as_of": None, "typed": ""}
        if not text:
            return names
        try:
            if action not in ACTIONS:
                raise InvalidInput("action", f"is not valid; valid: {', '.join(ACTIONS)}")
            now = await self._parts.sql.run(self._parts.search.now)
            found = await self._plan(req, action, text, now)
            return names | {"plan": found, "as_of": now.isoformat(), "typed": _typed(action, found.matched)}
        except InvalidInput as error:
            return names | {"errors": {"q" if error.field == "query" else error.field: error.message}}

    async def act(self, req: falcon.asgi.Request, form: Mapping[str, str], **path: str) -> Done:
        action, text = form.get("action", ""), form.get("q", "")
        asked = {"action": action, "q": text, "reason": form.get("reason", ""), **_moment(form.get("when", "").strip())}
        wanted = validated(Asked, asked, "body")
        run_at = when(wanted) or clock.utc() if wanted.action == "reschedule" else None
        counted, as_of = _counted(form, await self._parts.sql.run(self._parts.search.now))
        found = await self._plan(req, wanted.action, wanted.q, as_of)
        number = found.matched.number
        if counted.exact and number > counted.number:
            raise InvalidInput("", f"{number:,} tasks match by now, not {counted.number:,}; confirm the new number")
        if not number and found.matched.exact:
            raise InvalidInput("", "no task matches any more")
        typed = _typed(wanted.action, counted)
        if typed and re.sub(r"[,.\s]", "", form.get("confirm", "")) != typed:
            raise InvalidInput("confirm", f"type {typed} to confirm this")
        owner = req.context.caller.visible_owner
        payload = description(wanted.action, wanted.q, as_of, signed(req, wanted.reason), run_at, owner)
        task_id = await self._parts.submission.operation(req, payload)
        req.context.audit_detail = f"{wanted.action} as {task_id}, {number} tasks: {wanted.q}"
        return Done(f"/operations/{task_id}", "The operation has begun.")

    async def _plan(self, req: falcon.asgi.Request, action: str, text: str, as_of: dt.datetime) -> Plan:
        owner = req.context.caller.visible_owner
        return await self._parts.sql.run(plan, self._parts.search, action, text, as_of, owner)


def _typed(action: str, matched: Count) -> str:
    """What confirms an operation: the number of many tasks, and where it is not known the action."""
    if not matched.exact:
        return action
    return str(matched.number) if matched.number > TYPED_ABOVE else ""


def _query(req: falcon.asgi.Request) -> str:
    """The query, or the one for selected tasks."""
    ids = req.params.get("id") or []
    if ids:
        return f"id:{','.join([ids] if isinstance(ids, str) else ids)}"
    text = req.params.get("q") or ""
    if isinstance(text, list):
        raise InvalidInput("q", "given more than once")
    return text.strip()


def _moment(text: str) -> dict[str, str]:
    """The time of a reschedule as the API takes it: a time with its offset, or a duration from now."""
    if not text:
        return {}
    return {"run_at": text} if "T" in text.upper() else {"delay": text}


def _counted(form: Mapping[str, str], now: dt.datetime) -> tuple[Count, dt.datetime]:
    """What was counted, and when; all times are naive UTC by the database's clock. Raises InvalidInput."""
    try:
        as_of = dt.datetime.fromisoformat(form.get("as_of", ""))
        counted = Count(int(form.get("counted", "")), form.get("exact") == "yes")
    except ValueError:
        raise InvalidInput("", "nothing was counted yet; look at the number and confirm it") from None
    if as_of.tzinfo is not None or not now - _HOLDS < as_of <= now:
        raise InvalidInput("", "this count is too old; look at the new one and confirm it")
    return counted, as_of
