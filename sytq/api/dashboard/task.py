"""The page of one task, the buttons on it, and the task as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import falcon.asgi
from multidict import MultiDict

from sytq.api import problems, task_control
from sytq.api.caller import Caller
from sytq.api.dashboard import plugins, waterfall
from sytq.api.dashboard.blocks import json_text
from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.rendering import Rendering
from sytq.api.dashboard.resubmission import commands
from sytq.api.parts import Parts
from sytq.api.v2.requests import Cancellation, NewTime, start_of
from sytq.api.v2.task import One
from sytq.broker.state_index import Live
from sytq.config.masking import masked
from sytq.errors import DatabaseUnavailable, Overloaded
from sytq.service.live_state import current
from sytq.states import CANCELLED, DEAD, RETRYING, SCHEDULED, TERMINAL
from sytq.tasktypes.payload import validated

_MAX_NODES, _MAX_ATTEMPTS, _MAX_STEPS = 200, 50, 100
_MAX_TEXTS = 50_000  # characters of the details of attempts, and of the results of steps
_NO_REDIS = "Redis does not answer: the state is the one in the database, and may be older."


class TaskPage(Page):
    """GET /dashboard/tasks/{task_id}"""

    template: ClassVar[str] = "task.html"
    section: ClassVar[str] = "/tasks"

    def __init__(self, parts: Parts, rendering: Rendering) -> None:
        super().__init__(parts, rendering)
        self._control = task_control.TaskControl(parts)

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        try:
            row, live = await self._control.known(req, path["task_id"])
            task = await task_control.detail(self._parts, row, live, attempts=_MAX_ATTEMPTS)
        except (DatabaseUnavailable, Overloaded) as error:
            return await self._of_redis(req, path["task_id"], error)
        caller: Caller = req.context.caller
        shown, panel, tree = await asyncio.gather(
            plugins.formatted(self._parts, task, row.version),
            plugins.panel(self._parts, caller, task),
            self._control.tree(req, row, _MAX_NODES),
        )
        is_old = row.state not in TERMINAL and live is None and self._parts.data_loader.is_redis_away
        state, registry = current(row, live).state, self._parts.runtime.registry
        waits = state in (SCHEDULED, RETRYING)
        root = f"{req.scheme}://{req.netloc}{req.root_path}"  # of the API, as the browser reaches it
        needs_key = self._parts.runtime.settings.auth.enabled
        return {
            "task": task,
            "missing": [_NO_REDIS] if is_old else [],
            "is_cut": len(task["attempts_made"]) == _MAX_ATTEMPTS,
            "rows": waterfall.rows(task["spans"]),
            "axis": waterfall.WIDTH,
            "next_at": row.scheduled_at if waits and row.held is None else None,
            "shown": shown,
            "panel": panel,
            "payload": [json_text(task["payload"])],
            "result": [json_text(task["result"])] if task["result"] is not None else [],
            "metadata": [json_text(task["metadata"])] if task["metadata"] else [],
            "attempts": _with_texts(task["attempts_made"][::-1], "detail"),
            "steps": _with_texts(task["steps"][:_MAX_STEPS], "value"),
            "tree": tree,
            "has_resubmission": task["type"] in registry and not registry.get(task["type"]).internal,
            "can": {
                "cancel": state not in TERMINAL,
                "retry": row.state in (DEAD, CANCELLED),
                "reschedule": waits and not task["held"],
                "delete": row.state in TERMINAL,
            },
            "commands": commands(task, len(row.payload), root, needs_key=needs_key),
        }

    async def _of_redis(self, req: falcon.asgi.Request, task_id: str, error: Exception) -> dict[str, Any]:
        """What Redis knows while the database is away; it does not know the owner. Raises `error` otherwise."""
        caller: Caller = req.context.caller
        known: dict[str, Live] = {}
        if caller.is_admin:
            known = await self._parts.redis.run(self._parts.runtime.inspection.live, [task_id])
        if task_id not in known:
            raise error
        said = f"{error} What is shown is what Redis knows."
        return {"task": None, "task_id": task_id, "live": known[task_id], "missing": [said]}


class CancelTask(TaskPage):
    """POST /dashboard/tasks/{task_id}/cancel"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        why = validated(Cancellation, {"reason": form.get("reason", "")}, "reason").reason
        req.context.audit_detail = why
        outcome = await self._control.cancel(req, path["task_id"], why)
        said = "The task is cancelled." if outcome == "cancelled" else "The task runs, and is interrupted."
        return Done(f"/tasks/{path['task_id']}", said)


class RetryTask(TaskPage):
    """POST /dashboard/tasks/{task_id}/retry"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        await self._control.retry(req, path["task_id"])
        return Done(f"/tasks/{path['task_id']}", "The task runs again.")


class RescheduleTask(TaskPage):
    """POST /dashboard/tasks/{task_id}/reschedule"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        given = {name: form[name].strip() for name in ("delay", "run_at") if form.get(name, "").strip()}
        moment = start_of(validated(NewTime, given, "delay"))
        req.context.audit_detail = moment.isoformat(timespec="seconds")
        await self._control.reschedule(req, path["task_id"], moment)
        return Done(f"/tasks/{path['task_id']}", "The task is rescheduled.")


class DeleteTask(TaskPage):
    """POST /dashboard/tasks/{task_id}/delete"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        await self._control.delete(req, path["task_id"])
        return Done("/tasks", f"The task {path['task_id']} is deleted.")


class RawTask(One):
    """GET /dashboard/tasks/{task_id}/raw: the whole task, with what is secret masked; /v2 takes no session's cookie."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row, live = await self._control.known(req, task_id)
        try:
            found = await task_control.detail(self._parts, row, live)
            resp.data = await self._parts.sql.run(lambda: problems.encode(masked("", found)))
        except RecursionError:  # of another program's row: a submission has a bounded depth
            raise falcon.HTTPUnprocessableEntity(description="the task is nested too deeply to be shown") from None
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Content-Type-Options", "nosniff")


def _with_texts(found: Sequence[Any], name: str) -> list[tuple[Any, str | None]]:
    """Each with the text of its value of this name; of many long ones the first."""
    left, texts = _MAX_TEXTS, []
    for one in found:
        text = None if one[name] is None else json_text(one[name]).value["text"] if left > 0 else "see As JSON"
        left -= len(text or "")
        texts.append((one, text))
    return texts
