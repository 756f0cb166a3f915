"""The schedules: when each runs next, how its last task ended; trigger, pause and resume."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import falcon.asgi
from multidict import MultiDict

from sytq import clock
from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.pausing import SCOPES, reason
from sytq.api.dashboard.stores import gathered
from sytq.config.masking import masked
from sytq.errors import InvalidInput
from sytq.ids import new_id
from sytq.ledger.insert import Existing
from sytq.ledger.models import Task
from sytq.ledger.schedules import Schedules as Rows
from sytq.schedule import tick_id
from sytq.service import status
from sytq.service.status import ScheduleView
from sytq.tasktypes.registry import Scheduled

_NEXT = 5


class Schedules(Page):
    """GET /dashboard/schedules"""

    template = "schedules.html"
    section = "/schedules"
    is_shared = True
    scopes: ClassVar = SCOPES

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        found = await gathered(views=self._parts.sql.run(self._views))
        views, tasks = found["views"] or ([], {})
        registry = self._parts.runtime.registry
        can_see = req.context.caller.can_see
        shown = [
            {
                **view,
                "declared": registry.schedules[view["name"]].schedule,
                "ticks": _local(view, registry.schedules[view["name"]]),
                "task": task if (task := tasks.get(view["name"])) is not None and can_see(task.owner) else None,
            }
            for view in views
        ]
        return {"schedules": shown, "missing": found["missing"]}

    def _views(self) -> tuple[list[ScheduleView], dict[str, Task]]:
        """Every schedule, and the tasks of their last ticks by name."""
        runtime = self._parts.runtime
        views = status.schedules(runtime.registry, Rows(runtime.database), _NEXT)
        ids = {tick_id(view["name"], _moment(view["last"])): view["name"] for view in views if view["last"]}
        rows = runtime.ledger.some(ids)
        return views, {ids[task_id]: row for task_id, row in rows.items()}

    def _known(self, name: str) -> Scheduled:
        """Raises HTTPNotFound."""
        try:
            return self._parts.runtime.registry.schedules[name]
        except KeyError:
            raise falcon.HTTPNotFound(description=f"there is no schedule {name[:64]!r}") from None


class PauseSchedule(Schedules):
    """POST /dashboard/schedules/{name}/pause"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name = path["name"]
        self._known(name)
        try:
            why = reason(form)
        except InvalidInput as error:
            raise InvalidInput(f"why-{name}", error.message) from None
        pause = Rows(self._parts.runtime.database).pause
        await self._parts.sql.finish(pause, name, clock.utc(), by=req.context.caller.name, why=why)
        req.context.audit_detail = why
        return Done("/schedules", f"{name} is paused")


class ResumeSchedule(Schedules):
    """POST /dashboard/schedules/{name}/resume"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        self._known(path["name"])
        resumed = await self._parts.sql.finish(Rows(self._parts.runtime.database).resume, path["name"])
        return Done("/schedules", f"{path['name']} {'is resumed' if resumed else 'was not paused'}")


class TriggerSchedule(Schedules):
    """GET and POST /dashboard/schedules/{name}/trigger: its task, now."""

    template = "trigger.html"
    scopes: ClassVar = {"GET": "admin", "POST": "admin"}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        scheduled = self._known(path["name"])
        payload = json.dumps(masked("", scheduled.schedule.payload), ensure_ascii=False, indent=2)
        return {"name": path["name"], "type": scheduled.type, "payload": payload, "key": new_id()}

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        scheduled, submitter = self._known(path["name"]), self._parts.runtime.submitter
        task = submitter.prepare(scheduled.type, scheduled.schedule.payload)  # without an owner, as its ticks
        req.context.idempotency_key = form.get("key") or None  # a form that is sent twice submits one task
        (found,) = await self._parts.submission.accept(req, [task])
        req.context.audit_detail = found.id
        if isinstance(found, Existing):
            return Done(
                f"/tasks/{found.id}", "Nothing was submitted: this unfinished task has the schedule's unique key"
            )
        return Done(f"/tasks/{found.id}", "The task is submitted; the schedule's own times stay")


def _local(view: ScheduleView, scheduled: Scheduled) -> list[tuple[str, str]]:
    """The next ticks: in UTC, and as a clock in the schedule's zone shows them."""
    zone = ZoneInfo(scheduled.schedule.timezone)
    return [(text, f"{_moment(text).astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}") for text in view["next"]]


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
