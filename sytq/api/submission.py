"""One submission by HTTP, whatever its type: checked, accepted, told to the log.

Owns the steps between a payload and a task id that every submitting endpoint shares. Must not know the
shape of any request or answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon
import falcon.asgi
import structlog

from sytq.api.acceptor import Acceptor
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
        task = self._submitter.prepare(type_name, payload, priority=priority, owner=req.context.owner)
        task_id = await self._acceptor.submit(task, also)
        log.info("Task enqueued successfully", task_id=task_id, type=type_name)
        return task_id
