"""The context of a task: all that a function can do beside its own work, on the event loop.

An async function has it as its `ctx`; a plain one has its blocking form (context.py). Must not decide what a failure
means: that is worker/middleware/retry.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import peewee
from typing_extensions import Unpack

from sytq import clock
from sytq.broker.delivery import Delivery, cancellation
from sytq.broker.limiter import Limiter, Permit, check_acquired_name, configured
from sytq.errors import Cancelled, DatabaseUnavailable, RedisUnavailable, TimedOut, Waiting
from sytq.executor.attempt import Attempt, Services
from sytq.executor.checkpoint import Checkpoint
from sytq.executor.deadline import Deadline
from sytq.executor.lease import Lease
from sytq.executor.portal import Portal, without_stop_iteration
from sytq.executor.transaction import Child, Transaction
from sytq.ledger.database import read
from sytq.ledger.insert import NewTask
from sytq.ledger.models import Task
from sytq.ledger.values import utcnow
from sytq.service.tree import Outcome, outcomes
from sytq.states import RUNNING
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType

if TYPE_CHECKING:
    from sytq.http.client import Client

T = TypeVar("T")

#: Seconds for which an attempt itself waits for a permit, and between two looks at it.
_IN_PLACE, _IN_PLACE_PAUSE = 2.0, 0.1
#: Seconds that a cancelled task, or one that a stopping worker returns, goes on writing the result of its step.
_LAST_WRITE = 3.0


class AsyncContext(Attempt):
    """The context of an async function, and with a `portal` what the context of a plain function waits for."""

    def __init__(
        self,
        services: Services,
        declared: TaskType,
        delivery: Delivery,
        deadline: Deadline | None = None,
        portal: Portal | None = None,
    ) -> None:
        super().__init__(services, declared, delivery, deadline or Deadline(declared.timeout))
        self._portal = portal
        self._lease = Lease(services, delivery)
        self._steps = 0  # under way: several may run at once
        self._used: Permit | None = None  # what the task was fetched with, once its `with` block is over
        self._releasing: set[asyncio.Future[None]] = set()  # permits that steps have given back

    @property
    def http(self) -> Client:
        """The guarded HTTP client."""
        return self._services.client

    async def progress(self, done: int, of: int | None = None, text: str = "") -> None:
        """Show how far the task is. Raises Lost when another worker holds the task now."""
        self._go_on()
        state = {"done": done, "of": of, "text": text}
        try:
            held = await self._lease.ask_redis(self._services.operations.report_progress, self._delivery, encode(state))
        except RedisUnavailable:
            return  # lost progress is no reason to fail the task
        if not held:
            raise self._lease.lost()
        self._delivery.progress = state
        self._go_on()

    async def verify_lease(self) -> None:
        """Return if the worker's lease is valid and has been since Redis last said that this attempt holds the task.

        Else ask again, for at most the length of a lease. A step and `acquire` have done so; call it before each
        further call that costs money. Raises Lost, and RedisUnavailable (no attempt).
        """
        await self._lease.verify()

    async def transaction(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, a plain function, in one SQL transaction that commits only while this start holds the task.

        `work` may run several times (deadlock), so it changes nothing but the database. Raises Lost.
        """
        done: tuple[T, Sequence[NewTask]] = await self.blocking(self._transaction, work)
        value, tasks = done
        await self._dispatch(tasks)
        return value

    async def read(self, work: Callable[[peewee.Database], T]) -> T:
        """Run `work(database)`, a plain function that only reads, on one connection without a transaction; it may run
        several times."""
        self._go_on()
        database = self._services.ledger.database
        return await self.blocking(read, database, lambda: work(database))

    async def enqueue(self, type_name: str, payload: object, **options: Unpack[Child]) -> str:
        """Submit a child task and return its id, as `Transaction.enqueue`. Errors as `transaction`."""
        return await self.transaction(lambda tx: tx.enqueue(type_name, payload, **options))

    async def enqueue_many(self, type_name: str, payloads: Mapping[str, object]) -> list[str]:
        """Submit a child task for each key and payload and return their ids. Errors as `transaction`."""
        return await self.transaction(lambda tx: tx.enqueue_many(type_name, payloads))

    async def outcomes(self) -> list[Outcome]:
        """How the tasks have ended that this one waited for (its `after`), in that order."""
        return await self.read(lambda database: outcomes(self.id))

    @contextlib.asynccontextmanager
    async def acquire(self, *limiters: Limiter, cost: int = 0) -> AsyncIterator[Permit]:
        """Acquire a permit of all `limiters` at once, of this `cost`; release it at the end of the `with` block.

        Inside a step nothing waits for the release, as the step's result comes first. Stays for a permit that may be
        free within 2 s. Raises Waiting when that takes longer, a Retry that must reach the worker: the task then
        waits in Redis, holds no slot, uses no attempt, and starts again with the permit. Raises RedisUnavailable (no
        attempt), and ValueError for the limiter of a task type or a queue (`type:NAME`, `queue:NAME`).
        """
        for limiter in limiters:
            check_acquired_name(limiter.name)
        self._go_on()
        if self._used is not None:  # else the acknowledgement releases it
            self._releasing.add(self._services.permits.release(self._used))
            self._used = None
        fetched, asked = self._delivery.permit, time.monotonic()
        limits = [configured(limiter, self.settings.limiters) for limiter in limiters]
        permit = Permit(self.id, self.token, self._delivery.created_ms, limits, cost).or_fetched(fetched)
        try:
            await self._acquire(permit)
            self._granted(permit, asked)
            yield permit
        finally:
            if permit is not fetched:
                self._releasing.add(self._services.permits.release(permit))
            elif not any(name.startswith("type:") for name in permit.limits):  # that of a type is the whole attempt's
                self._used = permit
            if not self._steps:
                await self._await_releases()

    async def pause_limiter(
        self, name: str, reason: str, *, seconds: float | None = None, alert: bool = True, configuration: str = ""
    ) -> bool:
        """Pause a limiter until `resume_limiter`, a person resumes it, or `seconds` later; `alert` logs an error.

        With a `configuration` (a fingerprint of what was refused, as a key) the pause ends when it is another one.
        False when it was paused already. Raises RedisUnavailable.
        """
        by, pause = f"{self.type} {self.id}", self._services.limiters.pause
        asked = functools.partial(pause, name, by, reason, seconds=seconds, person=False, configuration=configuration)
        paused = await self._lease.ask_redis(asked)
        if paused:
            log = self.log.error if alert else self.log.warning
            log("limiter paused", limiter=name, reason=reason, seconds=seconds)
        return paused

    async def resume_limiter(self, name: str) -> bool:
        """Undo `pause_limiter`, of this or another task; False when the limiter was not paused, or by a person."""
        resume = functools.partial(self._services.limiters.resume, name, person=False)
        resumed = bool(await self._lease.ask_redis(resume))
        if resumed:
            self.log.info("limiter resumed", limiter=name)
        return resumed

    async def turn(self) -> None:
        """Go on once every task accepted before this one that has its ordering key has ended; until then the task
        waits without using an attempt (raises Waiting)."""
        self._go_on()
        before = await self.blocking(self._services.ledger.predecessors, self.id)
        if before:
            self._delivery.waits.refused(task=before[0].id)
            raise Waiting(_until_turn(before, utcnow()), reason=f"waiting for its turn: {len(before)} before it")

    async def step(
        self,
        name: str,
        function: Callable[[], Awaitable[T]],
        also: Callable[[], None] | None = None,
        *,
        begin: Callable[[Transaction, bool], None] | None = None,
        end: Callable[[Transaction, T], None] | None = None,
        mark: str | None = None,
    ) -> T:
        """Run `function` once in the task's life and replay its recorded result (a JSON value) ever after.

        What `also`, a plain function, writes to the database, it writes in the transaction that records the result.
        `begin(tx, runs)` writes in the transaction that begins the step or finds its result; `runs` says whether
        `function` will run. `end(tx, result)` writes in the transaction that records the result where it can, else (it
        is refused there, or an earlier attempt has recorded the result) in one of its own, which comes after it. These
        two run in every attempt, raise as in `transaction`, and may run several times like the work of one. With a
        `mark`, the name of another step, what `end` writes is written once in the task's life.
        """
        async with self._checkpoint(name, also, begin, end, mark) as step:
            if step.result is None:
                step.value = await function()
        value: T = step.value
        return value

    async def blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a short blocking `function` on the process's small thread pool."""
        if self._portal is not None:  # the function's own thread, which waits for this
            return await self._portal.call(functools.partial(function, *args))
        threads, loop = self._services.threads, asyncio.get_running_loop()
        return await loop.run_in_executor(threads, without_stop_iteration, function, *args)

    @contextlib.asynccontextmanager
    async def _checkpoint(
        self,
        name: str,
        also: Callable[[], None] | None,
        begin: Callable[[Transaction, bool], None] | None,
        end: Callable[[Transaction, T], None] | None,
        mark: str | None,
    ) -> AsyncIterator[Checkpoint]:
        """The block sets the step's value, unless there is a result already."""
        self._go_on()
        services, delivery, log = self._services, self._delivery, lambda: self.log
        step = Checkpoint(services, delivery, name, log, self._new_transaction, begin, end, mark)
        await step.look(self._lease.ask_redis(self._services.operations.kept_result, self.id, name))
        await (step.begin() if self._portal is None else self.blocking(step.begin_now))
        await self._dispatch(step.tasks)
        if step.result is not None:
            step.value = json.loads(step.result)
        self._steps += 1
        try:
            try:
                if step.result is None:
                    await self._lease.verify()
                yield step
            except Exception:
                await self.blocking(step.forget)
                raise
            if step.result is None:
                step.result = encode(step.value)
            if not step.done:
                with self._deadline.suspended():
                    await self._save(step, also)
            self._delivery.stepped = True
        finally:
            self._steps -= 1
            if not self._steps:
                await self._await_releases()
        if end is None:
            return
        if step.end is None:
            await self._dispatch(step.tasks)
        else:
            await self.transaction(step.write_end)

    async def _save(self, step: Checkpoint, also: Callable[[], None] | None) -> None:
        saving = asyncio.ensure_future(step.save(also))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            # Reads its exception: the attempt is over, and asyncio warns of one that nobody has seen.
            saving.add_done_callback(lambda future: future.cancelled() or future.exception())
            await asyncio.wait((saving,), timeout=_LAST_WRITE)  # the result may be paid for
            raise

    async def _await_releases(self) -> None:
        releasing, self._releasing = self._releasing, set()
        if releasing:
            await asyncio.wait(releasing, timeout=self.settings.worker.redis_timeout)

    def _go_on(self) -> None:
        if self._delivery.cancelled_by is not None:
            raise Cancelled(cancellation(self._delivery))
        if self.remaining() <= 0:
            raise TimedOut(f"timed out after {self.timeout:g} s")

    async def _acquire(self, permit: Permit) -> None:
        """Acquire a permit, and stay for it while the wait promises to be short: another attempt would begin anew."""
        deadline = time.monotonic() + _IN_PLACE
        while not self._is_granted(permit):
            await self._lease.verify()
            permit.in_place_ms = max(0, int((deadline - time.monotonic()) * 1000))
            try:
                await self._services.permits.acquire(permit)
            except Waiting as refusal:
                if not permit.in_place_ms:
                    if refusal.limiter is not None:
                        self._delivery.waits.refused(limiter=refusal.limiter)
                    raise
                await asyncio.sleep(_IN_PLACE_PAUSE)
                self._go_on()

    def _is_granted(self, permit: Permit) -> bool:
        """Whether the permit is this attempt's: acquired, and not taken back since, as the lease has been valid."""
        if not permit.limits:
            return True
        if permit.acquired_ms is None or permit.asked < self._services.valid_since():
            return False
        self._delivery.held_at = max(self._delivery.held_at, permit.asked)
        return True

    def _granted(self, permit: Permit, asked: float) -> None:
        """Note how long the permit took, asked for at this `time.monotonic`."""
        if permit.limits:
            took, ran = time.monotonic() - asked, clock.now() - self._delivery.started
            self._delivery.waits.granted(permit.limits, max(0, int((ran - took) * 1000)), int(took * 1000))

    def _transaction(self, work: Callable[[Transaction], T]) -> tuple[T, Sequence[NewTask]]:
        """Return the value of `work`, and the tasks that are in the ledger now."""
        self._go_on()
        transaction: Transaction | None = None

        def guarded() -> T:
            nonlocal transaction
            transaction = self._new_transaction()  # at each try: a deadlock repeats everything
            return work(transaction)

        value = self._services.ledger.fenced(self.id, self.token, guarded)
        assert transaction is not None
        return value, transaction.tasks

    def _new_transaction(self) -> Transaction:
        return Transaction(self._services.ledger, self._services.submitter, self._delivery)

    async def _dispatch(self, tasks: Sequence[NewTask]) -> None:
        """Dispatch the tasks of a transaction; what fails or takes too long is left to the reconciler."""
        services = self._services
        if tasks:
            with contextlib.suppress(RedisUnavailable):
                await self._lease.ask_redis(services.submitter.dispatch, tasks)
        if awaited := [on_id for task in tasks for on_id in task.after]:
            with contextlib.suppress(DatabaseUnavailable):  # then the reconciler finds the tasks that had ended before
                await self.blocking(services.recording.record, (), awaited)


def _until_turn(before: list[Task], now: dt.datetime) -> float:
    """Return the seconds until the next look at the tasks before this one: the more tasks, the later."""
    first = before[0]
    wait = 0.0
    if first.state == RUNNING and first.started_at:
        wait = min((now - first.started_at).total_seconds() / 2, 5.0)
    elif first.scheduled_at:
        wait = (first.scheduled_at - now).total_seconds()
    return min(max(wait, 0.0) + 0.25 * len(before), 60.0)
