"""What both contexts have of an attempt without waiting for anything."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog

from sytq.broker.delivery import Delivery
from sytq.broker.limiters import Limiters
from sytq.broker.operations import Operations
from sytq.config import Settings
from sytq.deprecated import OldContextMethods
from sytq.executor.checkpoint import Checkpoints
from sytq.executor.deadline import Deadline
from sytq.executor.permits import PermitBatcher
from sytq.ledger.ledger import Ledger
from sytq.ledger.search import Search
from sytq.service.control import Operator
from sytq.service.recording import Recording
from sytq.service.submission import Submitter
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType

if TYPE_CHECKING:
    from sytq.http.client import Client

_MOST_DETAIL = 64 << 10


@dataclass(frozen=True)
class Services:
    """The parts that all contexts of a process share, built by sytq.worker_runtime."""

    settings: Settings
    ledger: Ledger
    operations: Operations
    limiters: Limiters
    permits: PermitBatcher  # the limiters, from the event loop
    submitter: Submitter
    recording: Recording
    operator: Operator
    history: Search
    client: Client
    threads: Executor  # for async tasks' short blocking work
    redis_threads: Executor  # for calls of Redis: none is waited for longer than `worker.redis_timeout`
    valid_since: Callable[[], float]  # as of the heartbeat
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def close(self) -> None:
        """Wait for what the threads still do."""
        for threads in (self.threads, self.redis_threads, *self.checkpoints.threads):
            threads.shutdown()


class Attempt(OldContextMethods):
    """The task and its payload's type, which do not change, and what the attempt says of itself."""

    def __init__(self, services: Services, declared: TaskType, delivery: Delivery, deadline: Deadline) -> None:
        self._services = services
        self._delivery = delivery
        self._deadline = deadline
        self.id = delivery.id
        self.type = declared.name
        self.attempt = delivery.attempts  # 1 at the first run
        self.max_attempts = delivery.max_attempts or declared.retry.max_attempts
        self.token = delivery.token
        self.idempotency_key = delivery.id
        self.request_id = delivery.request_id  # of the submitting request, for calls in its name
        self.traceparent = delivery.traceparent
        self.timeout = declared.timeout
        self.config = declared.config
        self.settings = services.settings
        self.operator = services.operator  # changes other tasks
        self.history = services.history  # finds other tasks

    @cached_property
    def created_at(self) -> dt.datetime:
        """When the task was accepted."""
        return dt.datetime.fromtimestamp(self._delivery.created_ms / 1000, dt.UTC)

    @cached_property
    def log(self) -> Any:
        """A logger that carries the task's id. Binding one costs as much as half a short task."""
        logger = structlog.get_logger(f"sytq.task.{self.type}")
        return logger.bind(task_id=self.id, type=self.type, attempt=self.attempt, **self._delivery.origin)

    def remaining(self) -> float:
        """The seconds left of this run's time limit, 0 when it is over: the deadline for what the task waits for."""
        return self._deadline.remaining()

    def cancelled(self) -> bool:
        """Whether somebody asked for this task's cancellation; known within a heartbeat.

        The next call that writes raises Cancelled. A plain function that has asked this is interrupted ten seconds
        later rather than at once, so that it may end by itself.
        """
        self._delivery.polls = True
        return self._delivery.cancelled_by is not None

    def detail(self, **fields: Any) -> None:
        """Keep something with this attempt in the ledger: JSON values, 64 KiB of text in all, and no secrets.

        `status` (of an HTTP answer) and `host` (that is called, in ASCII) can be searched for. Raises ValueError.
        """
        detail = self._delivery.detail | fields
        status, host = detail.get("status", 0), detail.get("host", "")
        if not isinstance(status, int) or not 0 <= status < 1000:
            raise ValueError("the detail `status` is a number below 1000")
        if not isinstance(host, str) or not host.isascii() or len(host) > 255:
            raise ValueError("the detail `host` is a name of at most 255 ASCII characters")
        if len(encode(detail)) > _MOST_DETAIL:
            raise ValueError(f"the detail of an attempt has at most {_MOST_DETAIL} characters")
        self._delivery.detail = detail
