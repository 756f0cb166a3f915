"""The paths of /v2."""

from __future__ import annotations

from functools import partial
from typing import Any

import falcon.asgi

from sytq.api.parts import Parts
from sytq.api.v2 import answers
from sytq.api.v2.audit import AuditLog
from sytq.api.v2.doctor import Checks
from sytq.api.v2.events import Events
from sytq.api.v2.failures import Failures
from sytq.api.v2.limiters import PauseLimiter, ResumeLimiter
from sytq.api.v2.operations import Operations
from sytq.api.v2.overview import Page, Unreadable
from sytq.api.v2.schedules import PauseSchedule, ResumeSchedule, TriggerSchedule
from sytq.api.v2.task import Cancel, OneTask, Reschedule, Retry, Tree
from sytq.api.v2.tasks import Batch, Dead, Tasks
from sytq.ledger.schedules import Schedules
from sytq.service import status


def add_routes(app: falcon.asgi.App[Any, Any], parts: Parts) -> None:
    """Add every resource of /v2."""
    runtime = parts.runtime
    app.add_route("/v2/tasks", Tasks(parts))
    app.add_route("/v2/tasks/batch", Batch(parts))
    app.add_route("/v2/tasks/{task_id}", OneTask(parts))
    app.add_route("/v2/tasks/{task_id}/events", Events(parts))
    app.add_route("/v2/tasks/{task_id}/tree", Tree(parts))
    app.add_route("/v2/tasks/{task_id}/cancel", Cancel(parts))
    app.add_route("/v2/tasks/{task_id}/retry", Retry(parts))
    app.add_route("/v2/tasks/{task_id}/reschedule", Reschedule(parts))
    app.add_route("/v2/operations", Operations(parts))
    app.add_route("/v2/dead", Dead(parts))
    app.add_route("/v2/dead/unreadable", Unreadable(parts))
    app.add_route("/v2/audit", AuditLog(parts))
    app.add_route("/v2/failures", Failures(parts))
    for plugin in runtime.settings.installed.plugins:
        if plugin.routes is not None:
            for path, resource in plugin.routes().items():
                app.add_route(path, resource(parts))
    schemas = {known.name: known.payload.model_json_schema() for known in runtime.registry}

    def types() -> list[answers.TypeDetail]:
        found = status.types(runtime.registry, runtime.operator.pauses())
        return [{**view, "payload_schema": schemas.get(view["type"])} for view in found]

    queues = partial(status.queues, runtime.inspection, runtime.registry, runtime.settings.queue_limits)
    workers = partial(status.workers, runtime.inspection, runtime.cards, runtime.settings.worker.liveness)
    limiters = partial(status.limiters, runtime.inspection)
    mismatches = partial(status.mismatches, runtime.comparison())
    schedules = partial(status.schedules, runtime.registry, Schedules(runtime.database))
    app.add_route("/v2/types", Page("types", parts.sql, types))
    app.add_route("/v2/queues", Page("queues", parts.redis, queues))
    app.add_route("/v2/workers", Page("workers", parts.redis, workers))
    app.add_route("/v2/limiters", Page("limiters", parts.redis, limiters))
    app.add_route("/v2/limiters/pause", PauseLimiter(parts))
    app.add_route("/v2/limiters/resume", ResumeLimiter(parts))
    app.add_route("/v2/mismatches", Page("mismatches", parts.sql, mismatches, "admin"))
    app.add_route("/v2/doctor", Checks(parts))
    app.add_route("/v2/schedules", Page("schedules", parts.sql, schedules))
    app.add_route("/v2/schedules/pause", PauseSchedule(parts))
    app.add_route("/v2/schedules/resume", ResumeSchedule(parts))
    app.add_route("/v2/schedules/trigger", TriggerSchedule(parts))
