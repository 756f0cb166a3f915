"""POST /v2/schedules/pause, resume and trigger: a schedule submits without an owner, therefore by admins alone."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq import clock
from sytq.api import problems
from sytq.api.body import read_object
from sytq.api.parts import Resource
from sytq.api.v2.requests import OneSchedule, SchedulePause
from sytq.ledger.insert import Existing
from sytq.ledger.schedules import Schedules
from sytq.ledger.values import iso
from sytq.tasktypes.payload import validated


class _Change(Resource):
    scopes: ClassVar = {"POST": "admin"}

    @property
    def _schedules(self) -> Schedules:
        return Schedules(self._parts.runtime.database)


class PauseSchedule(_Change):
    """POST /v2/schedules/pause"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        wanted = validated(SchedulePause, read_object(req), "body")
        name = wanted.schedule
        self._parts.runtime.registry.schedule(name)
        by = req.context.caller.name
        await self._parts.sql.finish(self._schedules.pause, name, clock.utc(), by=by, why=wanted.why)
        req.context.audit_detail = f"{name}: {wanted.why}"
        resp.data = problems.encode({"schedule": name, "paused": True})


class ResumeSchedule(_Change):
    """POST /v2/schedules/resume"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        name = validated(OneSchedule, read_object(req), "body").schedule
        schedule = self._parts.runtime.registry.schedule(name).schedule
        resumed = await self._parts.sql.finish(self._schedules.resume, name)
        req.context.audit_detail = name if resumed else None
        upcoming = [iso(tick) for tick in schedule.upcoming(clock.utc(), 1)]
        resp.data = problems.encode({"schedule": name, "paused": False, "resumed": resumed, "next": upcoming})


class TriggerSchedule(_Change):
    """POST /v2/schedules/trigger: its task, now; the regular times stay."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        name = validated(OneSchedule, read_object(req), "body").schedule
        scheduled = self._parts.runtime.registry.schedule(name)
        # Without an owner, as its ticks.
        task = self._parts.runtime.submitter.prepare(scheduled.type, scheduled.schedule.payload)
        (found,) = await self._parts.submission.accept(req, [task])
        existing = isinstance(found, Existing)
        req.context.audit_detail = None if existing else f"{name}: {found.id}"
        resp.status = falcon.HTTP_200 if existing else falcon.HTTP_202
        href = f"/v2/tasks/{found.id}"
        resp.set_header("Location", href)
        resp.data = problems.encode({"id": found.id, "schedule": name, "existing": existing, "href": href})
