"""Submission, for the API, `ctx.enqueue`, the command line and loops: a task's row in the ledger, then its message.

The row is the promise; without the message the reconciler dispatches it later.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, cast

import structlog
from pydantic import BaseModel

from sytq import clock
from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.errors import InvalidInput, OutboundRefused, RedisUnavailable
from sytq.http.guard import Guard
from sytq.ids import new_id
from sytq.ledger.dependencies import RULES, OnFailure
from sytq.ledger.insert import Accepted, Existing
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Task
from sytq.ledger.values import naive, to_ms
from sytq.observability import tracing
from sytq.observability.outages import log_failure
from sytq.states import PRIORITIES, SCHEDULED
from sytq.tasktypes.payload import encode, written
from sytq.tasktypes.registry import Registry
from sytq.tasktypes.tasktype import TaskType

log = structlog.get_logger(__name__)

#: Seconds after which a new task is left to the reconciler; half the lifetime of finished tasks' marks.
DISPATCH_WITHIN = 5.0
#: Bytes of a task's metadata as JSON.
METADATA_MAX = 4096
#: Maximum dependencies of a task.
AFTER_MAX = 10_000


class Origin(TypedDict, total=False):
    """The origin of a submission."""

    owner: str | None
    parent: str | None
    request_id: str | None
    traceparent: str | None


class SubmissionOptions(Origin, total=False):
    """Options of a submission beside type and payload."""

    id: str
    priority: str | None
    run_at: dt.datetime | None  # UTC if it has no time zone
    after: Sequence[str]  # ids of its dependencies
    on_failure: OnFailure  # what happens when a dependency does not succeed
    unique_key: str | None  # for types without their own; unique among unfinished tasks of a type and owner
    metadata: Mapping[str, Any] | None
    callback: Mapping[str, Any] | None  # {"url", "headers"}; the URL is not checked here


class Submitter:
    """Makes, accepts and dispatches tasks. Thread-safe."""

    def __init__(self, registry: Registry, ledger: Ledger, dispatcher: Dispatcher, guard: Guard) -> None:
        self._registry = registry
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._guard = guard

    def prepare(
        self,
        type_name: str,
        payload: object,
        *,
        id: str | None = None,
        priority: str | None = None,
        run_at: dt.datetime | None = None,
        after: Sequence[str] = (),
        on_failure: OnFailure = "cancel",
        unique_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        callback: Mapping[str, Any] | None = None,
        owner: str | None = None,
        parent: str | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> NewTask:
        """Validate and return a task that is not accepted yet. Raises InvalidInput naming the field.

        The options are those of SubmissionOptions.
        """
        declared = self._registry.get(type_name)
        if priority is not None and priority not in PRIORITIES:
            raise InvalidInput("priority", f"'{priority}' is not valid; valid: {', '.join(PRIORITIES)}")
        if on_failure not in RULES:
            raise InvalidInput("on_failure", f"'{on_failure}' is not valid; valid: {', '.join(RULES)}")
        if len(after) > AFTER_MAX:
            raise InvalidInput("after", f"more than {AFTER_MAX} tasks")
        if unique_key is not None and declared.unique is not None:
            raise InvalidInput("unique_key", f"tasks of type '{declared.name}' have a key of their own")
        described = _metadata(metadata) if metadata else None
        # A dict first: a class of pydantic takes long to say that it is no instance.
        is_parsed = type(payload) is not dict and isinstance(payload, declared.payload)
        parsed = cast(BaseModel, payload) if is_parsed else declared.parse(payload)
        task_id = id or new_id()
        return NewTask(
            id=task_id,
            type=declared.name,
            queue=declared.queue,
            priority=priority or declared.priority,
            payload=written(parsed),
            max_attempts=declared.policy(parsed).max_attempts,
            run_at=naive(run_at) if run_at and run_at.tzinfo else run_at,
            owner=owner,
            parent=parent,
            after=tuple(after),
            on_failure=on_failure,
            host=self._host(declared, parsed),
            ordering_key=declared.ordering_key(parsed, owner),
            unique_key=declared.unique_key(parsed) if unique_key is None else declared.owners_key(owner, unique_key),
            metadata=described,
            callback=encode(callback) if callback else None,
            request_id=request_id,
            traceparent=tracing.created(task_id, declared.name, declared.queue, traceparent),
            version=declared.version,
            limiters=declared.limiter_names(parsed),
        )

    def _host(self, declared: TaskType, payload: BaseModel) -> str | None:
        if declared.url is None:
            return None
        try:  # an early check for the caller; the guard checks again when the task connects
            return self._guard.check_url(declared.url(payload)).raw_host
        except OutboundRefused as error:
            raise InvalidInput("url", str(error)) from None

    def submit(self, tasks: Sequence[NewTask], also: Callable[[], None] | None = None) -> list[Accepted | Existing]:
        """Accept `tasks` in one transaction (with what `also` writes), then dispatch. Raises DatabaseUnavailable.

        Returns for each task, in order, that it was accepted, or the existing task with the same unique key.
        """
        acceptances = self._ledger.accept(tasks, also)
        self.dispatch([task for task, found in zip(tasks, acceptances, strict=True) if isinstance(found, Accepted)])
        return acceptances

    def dispatch(self, tasks: Iterable[NewTask | Task], *, not_after_ms: int = 0) -> int:
        """Dispatch accepted tasks and return how many Redis did not know; the reconciler repeats it after a failure."""
        # After such a delay (the process was stopped) the reconciler has dispatched the task, which may have ended and
        # been forgotten since: dispatching it would run it again. Held tasks are not dispatched.
        oldest, now_ms = time.monotonic() - DISPATCH_WITHIN, int(clock.now() * 1000)
        now = [task for task in tasks if isinstance(task, Task) or (task.made > oldest and not task.after)]
        envelopes = [self._envelope(task, now_ms) for task in now]
        if not envelopes:
            return 0
        try:
            return self._dispatcher.dispatch(envelopes, not_after_ms=not_after_ms)
        except RedisUnavailable as error:
            log_failure(log, "dispatch postponed: the reconciler will do it", error, tasks=len(envelopes))
            return 0
        except InvalidInput as error:  # a row of another program among them, which the reconciler ends with the reason
            log.warning("dispatch left to the reconciler", error=str(error), tasks=len(envelopes))
            return 0

    def _envelope(self, task: NewTask | Task, now_ms: int) -> Envelope:
        # A row inserted by another language may leave queue and priority to the type; with an unknown type (a rolling
        # deploy) it waits in the default queue until a worker knows it.
        declared = self._registry.get(task.type) if task.type in self._registry else None
        if isinstance(task, NewTask):
            run_at, waits, created_ms = task.run_at, True, now_ms
            attempts, token, retry_delay = 0, 0, task.retry_delay
        else:
            run_at, waits = task.scheduled_at, task.state == SCHEDULED
            created_ms = to_ms(task.revived_at or task.created_at)
            attempts, token, retry_delay = task.attempts, task.token, None
        due_ms = to_ms(run_at) if run_at else 0
        if waits:
            created_ms = max(created_ms, due_ms)  # its age counts from its scheduled time
        return Envelope(
            id=task.id,
            type=task.type,
            queue=task.queue or self._registry.queue_of(task.type),
            priority=task.priority or self._registry.priority_of(task.type),
            payload=task.payload,
            created_ms=created_ms,
            due_ms=due_ms,
            attempts=attempts,
            token=token,
            retry_delay=retry_delay,
            request_id=task.request_id,
            traceparent=task.traceparent,
            # Set, so that a row of another language is not taken for one of a later deployment.
            version=task.version or (declared.version if declared else None),
            max_attempts=task.max_attempts or (declared.retry.max_attempts or 0 if declared else 0),
            limiters=_limiters(task, declared),
        )


def _limiters(task: NewTask | Task, declared: TaskType | None) -> tuple[str, ...]:
    """The limiters that a task's message names. A row that cannot name its own acquires them while it runs."""
    if isinstance(task, NewTask) and task.limiters is not None:
        return task.limiters
    if declared is None or declared.limiters is None:
        return ()
    try:
        return declared.limiter_names(declared.parse(json.loads(task.payload), task.version))
    except Exception:  # its attempt says what is wrong with the payload
        return ()


def _metadata(metadata: Mapping[str, Any]) -> str:
    text = encode(metadata)
    if len(text.encode()) > METADATA_MAX:
        raise InvalidInput("metadata", f"larger than {METADATA_MAX} bytes as JSON")
    return text
