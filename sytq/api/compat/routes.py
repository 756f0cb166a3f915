"""The paths of the contracts A, B, D and E; those for one task type exist only if the type is installed."""

from __future__ import annotations

from typing import Any, ClassVar

import falcon.asgi

from sytq.api.compat.http_requests import WebhookTasks
from sytq.api.compat.jobs import Jobs, Stats, Workers
from sytq.api.compat.llm_prompt import PromptTasks
from sytq.api.compat.llm_record import OneTask, RecordTasks, TaskList
from sytq.api.parts import Parts
from sytq.tasktypes.registry import Registry

#: The task types that some paths submit.
TYPES = {"/api/tasks/llm": "llm", "/api/v1/tasks/llm": "llm", "/api/v1/tasks": "webhook"}


def add_routes(app: falcon.asgi.App[Any, Any], parts: Parts) -> None:
    """Add every resource of the old contracts."""
    registry = parts.runtime.registry
    app.add_route("/api/tasks", TaskList(parts))
    app.add_route("/api/tasks/{task_id}", OneTask(parts))
    app.add_route("/jobs", Jobs(parts))
    app.add_route("/stats", Stats(parts))
    app.add_route("/workers", Workers(parts))
    for path, resource in (
        ("/api/tasks/llm", RecordTasks),
        ("/api/v1/tasks/llm", PromptTasks),
        ("/api/v1/tasks", WebhookTasks),
    ):
        app.add_route(path, resource(parts) if TYPES[path] in registry else _NotInstalled(registry))


class _NotInstalled:
    """POST to a path whose task type is not installed, perhaps because its plugin is broken."""

    scopes: ClassVar = {"POST": "submit"}

    def __init__(self, registry: Registry) -> None:
        self._broken = bool(registry.quarantined)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if self._broken:
            raise falcon.HTTPServiceUnavailable(
                description="the task type of this endpoint is not available on this server", retry_after=60
            )
        raise falcon.HTTPNotFound(description="the task type of this endpoint is not installed")
