"""The paths of the dashboard."""

from __future__ import annotations

from functools import partial
from typing import Any

import falcon.asgi

from sytq.api.dashboard import errors, plugins
from sytq.api.dashboard.assets import Assets
from sytq.api.dashboard.audit import AuditLog
from sytq.api.dashboard.completion import Complete
from sytq.api.dashboard.failures import FailuresPage
from sytq.api.dashboard.keys import Keys, RevokeKey, RotateKey
from sytq.api.dashboard.limiters import Limiters, OneLimiter, PauseLimiter, ResumeLimiter
from sytq.api.dashboard.login import LogIn
from sytq.api.dashboard.navigation import ENTRIES
from sytq.api.dashboard.new_operation import NewOperation
from sytq.api.dashboard.new_task import NewTask
from sytq.api.dashboard.operations import Operation, Operations, StopOperation
from sytq.api.dashboard.overview import Overview
from sytq.api.dashboard.page import Page
from sytq.api.dashboard.queues import OneQueue, PauseQueue, Queues, ResumeQueue
from sytq.api.dashboard.rendering import Rendering
from sytq.api.dashboard.saved_views import DeleteView, RenameView, SaveView
from sytq.api.dashboard.schedules import PauseSchedule, ResumeSchedule, Schedules, TriggerSchedule
from sytq.api.dashboard.sessions import LogOut, RevokeSession, SessionsPage
from sytq.api.dashboard.system import System
from sytq.api.dashboard.task import CancelTask, DeleteTask, RawTask, RescheduleTask, RetryTask, TaskPage
from sytq.api.dashboard.tasks import Tasks
from sytq.api.dashboard.types import OneType, PauseType, ResumeType, Types
from sytq.api.dashboard.workers import Workers
from sytq.api.parts import Parts
from sytq.api.v2.events import Events
from sytq.config.masking import masked

#: path below /dashboard -> page
PAGES: dict[str, type[Page]] = {
    "": Overview,
    "/audit": AuditLog,
    "/keys": Keys,
    "/keys/{key_id}/rotate": RotateKey,
    "/keys/{key_id}/revoke": RevokeKey,
    "/login": LogIn,
    "/logout": LogOut,
    "/sessions": SessionsPage,
    "/sessions/{shown}/revoke": RevokeSession,
    "/system": System,
    "/tasks": Tasks,
    "/tasks/views": SaveView,
    "/tasks/views/{view_id}/delete": DeleteView,
    "/tasks/views/{view_id}/rename": RenameView,
    "/tasks/{task_id}": TaskPage,
    "/tasks/{task_id}/cancel": CancelTask,
    "/tasks/{task_id}/retry": RetryTask,
    "/tasks/{task_id}/reschedule": RescheduleTask,
    "/tasks/{task_id}/delete": DeleteTask,
    "/operations": Operations,
    "/operations/new": NewOperation,
    "/operations/{task_id}": Operation,
    "/operations/{task_id}/stop": StopOperation,
    "/limiters": Limiters,
    "/limiters/one": OneLimiter,
    "/limiters/one/pause": PauseLimiter,
    "/limiters/one/resume": ResumeLimiter,
    "/queues": Queues,
    "/queues/{name}": OneQueue,
    "/queues/{name}/pause": PauseQueue,
    "/queues/{name}/resume": ResumeQueue,
    "/schedules": Schedules,
    "/schedules/{name}/pause": PauseSchedule,
    "/schedules/{name}/resume": ResumeSchedule,
    "/schedules/{name}/trigger": TriggerSchedule,
    "/types": Types,
    "/types/{name}": OneType,
    "/types/{name}/new": NewTask,
    "/types/{name}/pause": PauseType,
    "/types/{name}/resume": ResumeType,
    "/failures": FailuresPage,
    "/workers": Workers,
}


def add_routes(app: falcon.asgi.App[Any, Any], parts: Parts) -> None:
    """Add every page."""
    assets = Assets()
    entries = (*ENTRIES, *plugins.entries(parts.runtime.registry.plugins))
    rendering = Rendering(assets, entries, read_only=parts.runtime.settings.dashboard.read_only)
    app.add_route("/", Root())
    app.add_route("/dashboard/static/{name}", assets)
    app.add_route("/dashboard/tasks/complete", Complete(parts))
    for path, page in PAGES.items():
        app.add_route(f"/dashboard{path}", page(parts, rendering))
    app.add_route("/dashboard/tasks/{task_id}/events", Events(parts, show=partial(masked, "")))
    app.add_route("/dashboard/tasks/{task_id}/raw", RawTask(parts))
    for path, made in plugins.pages(parts, rendering).items():
        app.add_route(f"/dashboard{path}", made)
    app.set_error_serializer(partial(errors.serialize, rendering))


class Root:
    """GET / leads a browser to the dashboard."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if "text/html" not in (req.get_header("Accept") or ""):
            raise falcon.HTTPRouteNotFound
        raise falcon.HTTPFound(f"{req.root_path}/dashboard")
