"""The base of both contexts: one start of a task, with the writes that its fence guards.

Blocks; must not know its thread or event loop.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import peewee
import structlog

from sytq import clock
from sytq.broker.delivery import Delivery, cancellation
from sytq.broker.limiter import Limiter, Permit
from sytq.broker.limiters import Limiters
from sytq.broker.operations import Operations
from sytq.config import Settings
from sytq.deprecated import OldContextMethods
from sytq.errors import Cancelled, DatabaseUnavailable, Lost, RedisUnavailable, TimedOut, Waiting
from sytq.executor.checkpoint import Checkpoint, CheckpointThreads
from sytq.executor.permits import PermitBatcher
from sytq.executor.transaction import Transaction
from sytq.executor.waits import Waits, sleep
from sytq.ledger.database import read
from sytq.ledger.insert import NewTask
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from sytq.service.control import Operator
from sytq.service.recording import Recording
from sytq.service.submission import Submitter
from sytq.states import RUNNING
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType

if TYPE_CHECKING:
    from sytq.http import BlockingClient, Client

T = TypeVar("T")

_MOST_DETAIL = 64 << 10
#: Seconds between two looks at a lease that is not valid.
_LEASE_PAUSE = 0.1


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
    blocking_client: BlockingClient
    threads: Executor  # for async tasks' short blocking work
    redis_threads: Executor  # for calls of Redis: none is waited for longer than `worker.redis_timeout`
    valid_since: Callable[[], float]  # as of the heartbeat
    checkpoint_threads: CheckpointThreads = field(default_factory=CheckpointThreads)

    def close(self) -> None:
        """Wait for what the threads still do."""
        own = self.checkpoint_threads
        for threads in (self.threads, self.redis_threads, own.database, own.redis):
            threads.shutdown()


class Attempt(OldContextMethods):
    def __init__(self, services: Services, declared: TaskType, delivery: Delivery) -> None:
        self._services = services
        self._delivery = delivery
        self.id = delivery.id
        self.type = declared.name
        self.attempt = delivery.attempts  # 1 at the first run
        self.max_attempts = delivery.max_attempts or declared.retry.max_attempts
        self.token = delivery.token
        self.idempotency_key = delivery.id
        self.request_id = delivery.request_id  # of the submitting request, for calls in its name
        self.traceparent = delivery.traceparent
        self.created_at = dt.datetime.fromtimestamp(delivery.created_ms / 1000, dt.UTC)
        self.timeout = declared.timeout
        self.config = declared.config
        self.settings = services.settings
        self._steps = 0  # under way: several steps of an async task may run at once
        self.operator = services.operator  # changes other tasks
        self.history = services.history  # finds other tasks
        self.log = structlog.get_logger(f"sytq.task.{declared.name}").bind(
            task_id=delivery.id, type=declared.name, attempt=delivery.attempts, **delivery.origin
        )

    def cancelled(self) -> bool:
        """Whether somebody asked for this task's cancellation; known within a heartbeat. The next call that writes
        raises Cancelled; an async task is cancelled wherever it waits."""
        return self._delivery.cancelled_by is not None

    def remaining(self) -> float:
        raise NotImplementedError

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

    def _turn(self) -> None:
        self._go_on()
        before = self._services.ledger.predecessors(self.id)
        if before:
            after = _until_turn(before, utcnow())
            self._delivery.waits.refused(task=before[0].id)
            raise Waiting(after, reason=f"waiting for its turn: {len(before)} before it")

    def _go_on(self) -> None:
        if self._delivery.cancelled_by is not None:
            raise Cancelled(cancellation(self._delivery))
        if self.remaining() <= 0:
            raise TimedOut(f"timed out after {self.timeout:g} s")

    def _ask_redis(self, function: Callable[..., T], *args: Any) -> Waits[T]:
        """Call Redis on another thread, and wait for at most a third of the lease. Raises RedisUnavailable."""
        seconds = self.settings.worker.redis_timeout
        call = self._services.redis_threads.submit(function, *args)
        try:
            yield (call,), seconds
            answered = call.done()
        finally:
            call.cancel()
        if not answered:
            raise RedisUnavailable(f"Redis does not answer within {seconds:.1f} s")
        return call.result()

    def _verify_lease(self) -> Waits[None]:
        delivery, valid_since = self._delivery, self._services.valid_since
        deadline = time.monotonic() + self.settings.worker.liveness
        problem = "the lease of this worker is not renewed"
        while (since := valid_since()) > delivery.held_at:
            if since < math.inf:  # renewed after it had expired: another attempt may have begun meanwhile
                try:
                    if not (yield from self._ask_redis(self._services.operations.confirm, delivery)):
                        raise self._lost()
                    continue
                except RedisUnavailable as error:
                    problem = str(error)
            if time.monotonic() > deadline:
                raise RedisUnavailable(f"not known whether this attempt still holds its task: {problem}")
            yield sleep(_LEASE_PAUSE)

    def _is_granted(self, permit: Permit) -> bool:
        """Whether the permit is this attempt's: acquired, and not taken back since, as the lease has been valid."""
        if not permit.limits:
            return True
        if permit.acquired_ms is None or permit.asked < self._services.valid_since():
            return False
        self._delivery.held_at = max(self._delivery.held_at, permit.asked)
        return True

    def _lost(self) -> Lost:
        return Lost(f"start {self.token} of task {self.id} no longer holds it")

    def _progress(self, done: int, of: int | None, text: str) -> Waits[None]:
        self._go_on()
        state = {"done": done, "of": of, "text": text}
        try:
            held = yield from self._ask_redis(self._services.operations.report_progress, self._delivery, encode(state))
        except RedisUnavailable:
            return  # lost progress is no reason to fail the task
        if not held:
            raise self._lost()
        self._delivery.progress = state
        self._go_on()

    def _transaction(self, work: Callable[[Transaction], T]) -> tuple[T, Sequence[NewTask]]:
        """Return the value of `work`, and the tasks that are in the ledger now."""
        self._go_on()
        transaction: Transaction | None = None

        def guarded() -> T:
            nonlocal transaction
            # New at each try: a deadlock repeats everything.
            transaction = Transaction(self._services.ledger, self._services.submitter, self._delivery)
            return work(transaction)

        value = self._services.ledger.fenced(self.id, self.token, guarded)
        assert transaction is not None
        return value, transaction.tasks

    def _dispatch(self, tasks: Sequence[NewTask]) -> Waits[None]:
        """Dispatch the tasks of a transaction; what fails or takes too long is left to the reconciler."""
        services = self._services
        if tasks:
            with contextlib.suppress(RedisUnavailable):
                yield from self._ask_redis(services.submitter.dispatch, tasks)
        if awaited := [on_id for task in tasks for on_id in task.after]:
            recording = services.threads.submit(services.recording.record, (), awaited)
            yield (recording,), None
            with contextlib.suppress(DatabaseUnavailable):  # then the reconciler finds the tasks that had ended before
                recording.result()

    def _read(self, work: Callable[[peewee.Database], T]) -> T:
        self._go_on()
        database = self._services.ledger.database
        return read(database, lambda: work(database))

    def _checkpoint(self, name: str) -> Checkpoint:
        self._go_on()
        services, timeout = self._services, self.settings.worker.redis_timeout
        threads = services.checkpoint_threads
        return Checkpoint(services.ledger, services.operations, self._delivery, name, self.log, threads, timeout)

    def _look(self, step: Checkpoint, name: str) -> Waits[None]:
        return step.look(self._ask_redis(self._services.operations.kept_result, self.id, name))

    def _permit(self, limiters: Iterable[Limiter], cost: int) -> Permit:
        """Return the permit to acquire: the one that the task was fetched with, if these limiters granted it."""
        self._go_on()
        permit, fetched = Permit(self.id, self.token, self._delivery.created_ms, limiters, cost), self._delivery.permit
        if fetched is None or not fetched.unused or cost or fetched.limits != permit.limits:
            return permit
        fetched.report("ignored")
        return fetched

    def _granted(self, permit: Permit, asked: float) -> None:
        """Note how long the permit took, asked for at this `time.monotonic`."""
        if permit.limits:
            took, ran = time.monotonic() - asked, clock.now() - self._delivery.started
            self._delivery.waits.granted(permit.limits, max(0, int((ran - took) * 1000)), int(took * 1000))

    def _refused(self, refusal: Waiting) -> None:
        """Note the limiter that the task waits for."""
        if refusal.limiter is not None:
            self._delivery.waits.refused(limiter=refusal.limiter)

    def _pause_limiter(self, name: str, reason: str, seconds: float | None, alert: bool, configuration: str) -> bool:
        by = f"{self.type} {self.id}"
        limiters = self._services.limiters
        paused = limiters.pause(name, by, reason, seconds=seconds, person=False, configuration=configuration)
        if paused:
            log = self.log.error if alert else self.log.warning
            log("limiter paused", limiter=name, reason=reason, seconds=seconds)
        return paused

    def _resume_limiter(self, name: str) -> bool:
        resumed = bool(self._services.limiters.resume(name, person=False))
        if resumed:
            self.log.info("limiter resumed", limiter=name)
        return resumed


def _until_turn(before: list[Task], now: dt.datetime) -> float:
    """Return the seconds until the next look at the tasks before this one: the more tasks, the later."""
    first = before[0]
    wait = 0.0
    if first.state == RUNNING and first.started_at:
        wait = min((now - first.started_at).total_seconds() / 2, 5.0)
    elif first.scheduled_at:
        wait = (first.scheduled_at - now).total_seconds()
    return min(max(wait, 0.0) + 0.25 * len(before), 60.0)
