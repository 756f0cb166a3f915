"""Contract D: jobs (tasks of an installed type) with priorities, and statistics of the whole installation."""

from __future__ import annotations

import time
from typing import Any, ClassVar, NoReturn

import falcon.asgi

from sytq.api import problems
from sytq.api.body import check_values
from sytq.api.compat.body import read_object
from sytq.api.parameters import parameter
from sytq.api.parts import Parts
from sytq.config.compat import DEFAULT_TYPE
from sytq.durations import format_duration
from sytq.errors import InvalidInput
from sytq.states import DEAD, PRIORITIES, SUCCEEDED


class Jobs:
    """POST /jobs"""

    scopes: ClassVar = {"POST": "submit"}

    def __init__(self, parts: Parts) -> None:
        self._types = sorted(declared.name for declared in parts.runtime.registry if not declared.internal)
        self._registry = parts.runtime.registry
        self._submission = parts.submission

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        name = parameter(req, "type") or DEFAULT_TYPE
        if name not in self._types:
            raise InvalidInput("type", f"'{name[:64]}' is not a job type; valid: {', '.join(self._types)}")
        priority = parameter(req, "priority") or "normal"
        if priority not in PRIORITIES:
            raise InvalidInput("priority", f"'{priority[:64]}' is not valid; valid: {', '.join(PRIORITIES)}")
        payload = read_object(req, self._registry.get(name).payload.model_fields.keys(), required=False)
        check_values(payload)
        job_id = await self._submission.enqueue(req, name, payload, priority=priority)
        resp.status = falcon.HTTP_202
        resp.data = problems.encode({"job_id": job_id, "status": "submitted"})

    async def on_options(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> NoReturn:
        raise falcon.HTTPMethodNotAllowed(["POST"])  # else Falcon answers


class _Statistics:
    """A resource that reads Redis."""

    def __init__(self, parts: Parts) -> None:
        self._inspection = parts.runtime.inspection
        self._lease = parts.runtime.settings.worker.liveness
        self._threads = parts.redis
        self._started = time.monotonic()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = problems.encode(await self._threads.run(self._read))

    def _read(self) -> dict[str, Any]:
        raise NotImplementedError

    def _alive(self) -> list[Any]:
        return [worker for worker in self._inspection.workers() if worker.age <= self._lease]


class Stats(_Statistics):
    """GET /stats: counts since Redis was first seen, over all processes; `uptime` is of this process."""

    def _read(self) -> dict[str, Any]:
        totals = self._inspection.totals()

        def count(wanted: str) -> int:
            return sum(number for (_, outcome), number in totals.items() if outcome == wanted)

        return {
            "jobs_submitted": count("submitted"),
            "jobs_completed": count(SUCCEEDED),
            "jobs_failed": count(DEAD),
            "workers_active": len(self._alive()),
            "queue_size": sum(depth.waiting for depth in self._inspection.queues()),
            "uptime": format_duration(int(time.monotonic() - self._started)),
        }


class Workers(_Statistics):
    """GET /workers: processes with a fresh heartbeat, and how many jobs they run."""

    def _read(self) -> dict[str, Any]:
        alive = self._alive()
        return {
            "workers": len(alive),
            "jobs_running": sum(depth.running for depth in self._inspection.queues()),
            "list": [{"worker_id": worker.name, "heartbeat_age": round(worker.age, 3)} for worker in alive],
        }
