"""One submission by HTTP, whatever its type: checked, accepted, told to the log.

Owns the steps between a payload and a task id that every submitting endpoint shares. Must not know the
shape of any request or answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import falcon
import falcon.asgi
import structlog

from sytq import bulk
from sytq.api.acceptor import Acceptor
from sytq.errors import InvalidInput
from sytq.ledger import NewTask
from sytq.plugin import Registry
from sytq.submit import Submitter

log = structlog.get_logger(__name__)


class Submission:
    """Turns payloads of requests into accepted tasks."""

    def __init__(self, registry: Registry, submitter: Submitter, acceptor: Acceptor) -> None:
        self._registry = registry
        self._submitter = submitter
        self._acceptor = acceptor

    async def enqueue(
        self,
        req: falcon.asgi.Request,
        type_name: str,
        payload: object,
        *,
        priority: str | None = None,
        also: Callable[[], Any] | None = None,
    ) -> str:
        """Return the id of the accepted task. Raises InvalidInput naming the field, and as Acceptor.submit."""
        if type_name not in self._registry:
            raise falcon.HTTPServiceUnavailable(
                description=f"the task type '{type_name}' is not available on this server", retry_after=60
            )
        task = self.prepare(req, type_name, payload, priority=priority)
        task_id = await self._acceptor.submit(task, also)
        log.info("Task enqueued successfully", task_id=task_id, type=type_name)
        return task_id

    def prepare(self, req: falcon.asgi.Request, type_name: str, payload: object, **options: Any) -> NewTask:
        """Return a task of this request, not accepted yet; `options` as Submitter.prepare. Raises InvalidInput."""
        if type_name in self._registry and self._registry.get(type_name).internal:
            raise InvalidInput("type", f"'{type_name}' is submitted by the service alone")
        return self._prepare(req, type_name, payload, **options)

    async def operation(self, req: falcon.asgi.Request, payload: object) -> str:
        """Accept a bulk operation and return its id. Raises as `accept`."""
        task = self._prepare(req, bulk.TYPE, payload)
        await self.accept([task])
        return task.id

    def _prepare(self, req: falcon.asgi.Request, type_name: str, payload: object, **options: Any) -> NewTask:
        origin = req.scope["sytq.origin"]
        return self._submitter.prepare(
            type_name,
            payload,
            owner=req.context.owner,
            request_id=origin.request_id,
            traceparent=origin.traceparent,
            **options,
        )

    async def accept(self, tasks: Sequence[NewTask]) -> dict[str, str]:
        """Accept prepared tasks in one transaction; return and raise as Acceptor.submit_all."""
        standing = await self._acceptor.submit_all(tasks)
        for task in tasks:
            log.info("Task enqueued successfully", task_id=standing.get(task.id, task.id), type=task.type)
        return standing
