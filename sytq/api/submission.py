"""One submission by HTTP, whatever its type: checked, accepted, told to the log.

Owns the steps between a payload and a task id that every submitting endpoint shares. Must not know the
shape of any request or answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import falcon
import falcon.asgi
import structlog

from sytq.api.caller import Caller
from sytq.api.idempotency import IdempotencyGuard
from sytq.api.queue_depth import QueueDepthLimit
from sytq.api.quota import Quota
from sytq.api.submission_batcher import Accepted, SubmissionBatcher
from sytq.errors import InvalidInput
from sytq.ledger.idempotency import Claim
from sytq.ledger.ledger import NewTask
from sytq.service import bulk
from sytq.service.submission import Submitter
from sytq.tasktypes.registry import Registry

log = structlog.get_logger(__name__)
_STDLIB = logging.getLogger(__name__)  # to ask it for the level once for all tasks of a batch


class Submission:
    """Turns payloads of requests into accepted tasks."""

    def __init__(
        self,
        registry: Registry,
        submitter: Submitter,
        acceptor: SubmissionBatcher,
        quota: Quota,
        backlog: QueueDepthLimit,
        once: IdempotencyGuard,
    ) -> None:
        self._registry = registry
        self._submitter = submitter
        self._acceptor = acceptor
        self._quota = quota
        self._backlog = backlog
        self._once = once

    async def enqueue(
        self,
        req: falcon.asgi.Request,
        type_name: str,
        payload: object,
        *,
        priority: str | None = None,
        also: Callable[[], Any] | None = None,
    ) -> str:
        """Return the id of the accepted task. Raises InvalidInput naming the field, and as `prepare` and `accept`."""
        task = self.prepare(req, type_name, payload, priority=priority)
        accepted = await self.accept(req, [task], also=also)
        return accepted.ids[0]

    def prepare(self, req: falcon.asgi.Request, type_name: str, payload: object, **options: Any) -> NewTask:
        """Return a task of this request, not accepted yet; `options` as Submitter.prepare.

        Raises InvalidInput, and HTTPForbidden for a type that the caller may not submit.
        """
        caller: Caller = req.context.caller
        caller.needs_type(type_name)
        if type_name in self._registry:
            declared = self._registry.get(type_name)
            if declared.admin_only:
                caller.needs("admin", f"'{type_name}' works on the whole installation: ")
            if declared.internal:
                raise InvalidInput("type", f"'{type_name}' is submitted by the service alone")
        return self._prepare(req, type_name, payload, **options)

    async def operation(self, req: falcon.asgi.Request, payload: object) -> str:
        """Accept a bulk operation and return its id. Raises as `accept`."""
        accepted = await self.accept(req, [self._prepare(req, bulk.TYPE, payload)])
        return accepted.ids[0]

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

    async def accept(
        self,
        req: falcon.asgi.Request,
        tasks: Sequence[NewTask],
        *,
        also: Callable[[], Any] | None = None,
        each: bool = False,
    ) -> Accepted:
        """Accept prepared tasks, all or none, within the caller's allowance and once per Idempotency-Key.

        With `each` those are left out whose unique key a task has that the caller may not see. Raises
        HTTPTooManyRequests, HTTPUnprocessableEntity, InUse, HTTPServiceUnavailable for a full queue, and as
        Acceptor.submit.
        """

        async def accept(claim: Claim | None) -> Accepted:
            try:
                await self._quota.tasks(req, len(tasks))
            except falcon.HTTPTooManyRequests as refusal:
                return await self._again(claim, refusal)
            accepted = None
            try:
                try:
                    await self._backlog.enter(tasks)
                except falcon.HTTPServiceUnavailable as refusal:
                    accepted = await self._again(claim, refusal)
                else:
                    sees = req.context.caller.sees
                    accepted = await self._acceptor.submit(tasks, also, claim, sees=sees, each=each)
            finally:
                made = 0 if accepted is None or accepted.repeats else len(tasks) - accepted.ids.count("")
                if made < len(tasks):
                    await self._quota.tasks(req, made - len(tasks))
            return accepted

        accepted = await self._once.run(req, accept)
        if not accepted.repeats and _STDLIB.isEnabledFor(logging.INFO):
            for task_id, task in zip(accepted.ids, tasks, strict=True):
                if task_id:
                    log.info("Task enqueued successfully", task_id=task_id, type=task.type)
        return accepted

    async def _again(self, claim: Claim | None, refusal: falcon.HTTPError) -> Accepted:
        """What stands for the claim already and so needs no room; else raises the refusal."""
        standing = await self._acceptor.answered(claim) if claim is not None else None
        if standing is None:
            raise refusal
        return standing
