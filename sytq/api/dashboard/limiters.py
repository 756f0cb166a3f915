"""The limiters: what each lets pass and holds up; pause and resume."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

import falcon.asgi
from multidict import MultiDict

from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.pausing import SCOPES, reason
from sytq.api.dashboard.stores import gathered, visible
from sytq.broker.limiter_states import LimiterState

_MAX_SHOWN = 200


class Limiters(Page):
    """GET /dashboard/limiters; `q` is a part of their names."""

    template = "limiters.html"
    section = "/limiters"
    is_shared = True
    parameters: ClassVar = {"GET": ("q",)}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        part = (req.get_param("q") or "").strip()[:300]
        found = await gathered(limiters=self._parts.redis.run(self._parts.runtime.inspection.limiters))
        all_limiters: list[LimiterState] = found["limiters"] or []
        matching = [limiter for limiter in all_limiters if part.lower() in limiter.name.lower()]
        # First what holds tasks up.
        matching.sort(key=lambda one: one.urgency)
        return {
            "limiters": matching[:_MAX_SHOWN],
            "matching": len(matching),
            "count": len(all_limiters),
            "part": part,
            "missing": found["missing"],
        }


class OneLimiter(Page):
    """GET /dashboard/limiters/one?name=; names have every character but space and |."""

    template = "limiter.html"
    section = "/limiters"
    scopes: ClassVar = SCOPES
    parameters: ClassVar = {"GET": ("name",), "POST": ("name",)}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        name = _name(req)
        found = await gathered(limiter=self._parts.redis.run(self._parts.runtime.inspection.limiter, name))
        limiter: LimiterState | None = found["limiter"]
        ids = [*limiter.inside, *limiter.line] if limiter else []
        seen = await gathered(ids=visible(self._parts, req.context.caller, ids))
        return {
            "name": name,
            "limiter": limiter,
            "visible": seen["ids"] or set(),
            "missing": found["missing"] + seen["missing"],
        }


class PauseLimiter(OneLimiter):
    """POST /dashboard/limiters/one/pause?name="""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name, why = _name(req), reason(form)
        await self._parts.redis.finish(self._parts.runtime.pausing.pause, name, req.context.caller.name, why)
        req.context.audit_detail = f"{name}: {why}"
        return _done(name, f"{name} is paused")


class ResumeLimiter(OneLimiter):
    """POST /dashboard/limiters/one/resume?name="""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name = _name(req)
        resumed = await self._parts.redis.finish(self._parts.runtime.pausing.resume, name)
        req.context.audit_detail = name if resumed else None
        if not resumed:
            return _done(name, f"{name} was not paused, and its circuit breaker not open")
        was = "it was paused" if resumed.held == "paused" else f"its circuit breaker was {resumed.held}"
        return _done(name, f"{name} is resumed; {was}. Tasks that waited: {resumed.waiting}")


def _name(req: falcon.asgi.Request) -> str:
    return req.get_param("name") or ""


def _done(name: str, said: str) -> Done:
    return Done(f"/limiters/one?{urlencode({'name': name})}", said)
