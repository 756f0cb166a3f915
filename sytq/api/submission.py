"""The steps from a payload to an accepted task that every submitting endpoint shares."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import falcon.asgi
import structlog

from sytq.api.caller import Caller
from sytq.api.idempotency import IdempotencyGuard, claim_of
from sytq.api.queue_depth import QueueDepthLimit
from sytq.api.quota import Quota
from sytq.api.submission_batcher import SubmissionBatcher
from sytq.config.sections import TaskLines
from sytq.errors import InvalidInput
from sytq.ledger.idempotency import Claim, Submitted
from sytq.ledger.insert import Acceptance, Accepted, Existing, NewTask, Refused
from sytq.service.submission import Submitter
from sytq.tasktypes.registry import Registry

log = structlog.get_logger(__name__)
#: Contract E's callers look for the line in the log; a task has one more when it has ended.
_EVERY_PATH, _LOGGED_PATHS = ("/",), ("/api/v1/tasks",)
_STDLIB = logging.getLogger(__name__)  # to check the level once for all tasks of a batch


class Submission:
    def __init__(
        self,
        registry: Registry,
        submitter: Submitter,
        batcher: SubmissionBatcher,
        quota: Quota,
        queue_depth: QueueDepthLimit,
        logged: TaskLines,
    ) -> None:
        self._registry = registry
        self._submitter = submitter
        self._batcher = batcher
        self._quota = quota
        self._queue_depth = queue_depth
        self._idempotency = IdempotencyGuard()
        self._logged = {"attempts": _EVERY_PATH, "finished": _LOGGED_PATHS}.get(logged, ())

    async def enqueue(
        self,
        req: falcon.asgi.Request,
        type_name: str,
        payload: object,
        *,
        priority: str | None = None,
        also: Callable[[], Any] | None = None,
    ) -> str:
        """Prepare and accept one task and return its id. Raises what `prepare` and `accept` raise."""
        task = self.prepare(req, type_name, payload, priority=priority)
        (accepted,) = await self.accept(req, [task], also=also)
        return accepted.id

    def prepare(self, req: falcon.asgi.Request, type_name: str, payload: object, **options: Any) -> NewTask:
        """Return a task of this request, not accepted yet; `options` are those of Submitter.prepare.

        Raises InvalidInput naming the field, and HTTPForbidden for a type that the caller may not submit.
        """
        self.check_type(req.context.caller, type_name)
        return self._prepare(req, type_name, payload, **options)

    def check_type(self, caller: Caller, type_name: str) -> None:
        """Raise HTTPForbidden for a type that the caller may not submit, InvalidInput for a type that nobody may."""
        caller.require_type(type_name)
        if type_name in self._registry:
            declared = self._registry.get(type_name)
            if declared.admin_only:
                caller.require_scope("admin", f"'{type_name}' works on the whole installation: ")
            if declared.internal:
                raise InvalidInput("type", f"'{type_name}' is submitted by the service alone")

    async def operation(self, req: falcon.asgi.Request, payload: object) -> str:
        """Accept a bulk operation and return its id. Raises what `accept` raises."""
        (accepted,) = await self.accept(req, [self._prepare(req, self._registry.of_role("operation").name, payload)])
        return accepted.id

    def _prepare(self, req: falcon.asgi.Request, type_name: str, payload: object, **options: Any) -> NewTask:
        origin = req.scope["sytq.origin"]
        return self._submitter.prepare(
            type_name,
            payload,
            owner=req.context.caller.owner,
            request_id=origin.request_id,
            traceparent=origin.traceparent,
            **options,
        )

    async def accept(
        self, req: falcon.asgi.Request, tasks: Sequence[NewTask], *, also: Callable[[], Any] | None = None
    ) -> list[Accepted | Existing]:
        """Accept prepared tasks, all or none, within the caller's quota and once per Idempotency-Key.

        Raises HTTPTooManyRequests, HTTPUnprocessableEntity, InUse, HTTPServiceUnavailable for a full queue, and what
        `SubmissionBatcher.submit` raises.
        """
        accepted = await self.accept_each(req, tasks, also=also, all_or_none=True)
        return [task for task in accepted if not isinstance(task, Refused)]

    async def accept_each(
        self,
        req: falcon.asgi.Request,
        tasks: Sequence[NewTask],
        *,
        also: Callable[[], Any] | None = None,
        all_or_none: bool = False,
    ) -> Sequence[Acceptance]:
        """Like `accept`, but accept every prepared task that can be accepted, unless `all_or_none`."""
        claim = claim_of(req)
        submit = partial(self._submit, req, tasks, also, claim, all_or_none)
        submitted = await (submit() if claim is None else self._idempotency.run(claim, submit))
        if submitted.repeats is not None:
            req.context.headers["Idempotent-Replayed"] = "true"
        return submitted.tasks

    async def _submit(
        self,
        req: falcon.asgi.Request,
        tasks: Sequence[NewTask],
        also: Callable[[], Any] | None,
        claim: Claim | None,
        all_or_none: bool,
    ) -> Submitted:
        reserved = used = 0
        try:
            await self._quota.tasks(req, len(tasks))
            reserved = len(tasks)
            await self._queue_depth.check(tasks)
            is_logged = req.path.startswith(self._logged) and _STDLIB.isEnabledFor(logging.INFO)
            submitted = await self._batcher.submit(
                tasks,
                also,
                claim,
                can_see=req.context.caller.can_see,
                all_or_none=all_or_none,
                written=partial(_log, contextvars.copy_context(), tasks) if is_logged else None,
            )
            refused = list(map(type, submitted.tasks)).count(Refused)
            used = 0 if submitted.repeats else reserved - refused
            return submitted
        except (falcon.HTTPTooManyRequests, falcon.HTTPServiceUnavailable):
            # A repeated request needs neither quota nor room in the queue.
            earlier = await self._batcher.earlier(claim) if claim is not None else None
            if earlier is None:
                raise
            return earlier
        finally:
            if used < reserved:
                await self._quota.tasks(req, used - reserved)


def _log(context: contextvars.Context, tasks: Sequence[NewTask], submitted: Submitted) -> None:
    """Log a submission's tasks, in the context of its request, whose ids are in the lines."""
    if submitted.repeats is None:
        for task, acceptance in zip(tasks, submitted.tasks, strict=True):
            if not isinstance(acceptance, Refused):
                context.run(log.info, "Task enqueued successfully", task_id=acceptance.id, type=task.type)
