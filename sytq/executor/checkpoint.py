"""The checkpoint of one step: its result on its way into the ledger, and beside the task in Redis meanwhile.

A result may have cost money. Only a refused fencing token, or the loss of both stores at once, makes it worthless.
Nothing else that an attempt does comes between a result and its first write. What the type writes with a result stands
back where it is refused: the result is written alone then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import peewee

from sytq.broker.delivery import Delivery
from sytq.errors import Cancelled, DatabaseUnavailable, Fail, InvalidInput, Lost, RedisUnavailable, Retry
from sytq.executor.group_commit import GroupCommit
from sytq.ledger import refusals
from sytq.observability.outages import DATABASE

if TYPE_CHECKING:
    from sytq.executor.attempt import Services
    from sytq.executor.transaction import Transaction
    from sytq.ledger.insert import NewTask
    from sytq.ledger.models import Step

#: Seconds between two tries to write a result, doubled each time up to the second number.
_PAUSE, _LONGEST_PAUSE = 0.5, 4.0
#: Seconds that the database may take before the result is kept in Redis too.
_PROMPT = 0.5
#: Threads that begin steps, and that write results.
_BEGINS, _ENDS = 4, 4
#: What says itself how the task goes on.
_ON_PURPOSE = (DatabaseUnavailable, RedisUnavailable, InvalidInput, Fail, Retry, Cancelled)


class Checkpoints:
    """What the steps of a process share: transactions, on threads that do nothing else that a store may hold up."""

    def __init__(self) -> None:
        begins, ends = ThreadPoolExecutor(_BEGINS, "steps"), ThreadPoolExecutor(_ENDS, "checkpoints")
        self.begins, self.ends = GroupCommit(begins, _BEGINS), GroupCommit(ends, _ENDS)
        self.redis = ThreadPoolExecutor(2, "kept-results")
        self.threads = begins, ends, self.redis


class Checkpoint:
    """Its methods raise Lost. A call of Redis holds it up for at most `worker.redis_timeout`.

    `log` gives the attempt's logger; `transaction` makes the Transaction in which `begin` and `end` write; `mark` says
    that `end` has. Raises ValueError for a step that is its own mark.
    """

    def __init__(
        self,
        services: Services,
        delivery: Delivery,
        name: str,
        log: Callable[[], Any],
        transaction: Callable[[], Transaction],
        begin: Callable[[Transaction, bool], None] | None = None,
        end: Callable[[Transaction, Any], None] | None = None,
        mark: str | None = None,
    ) -> None:
        if mark == name:
            raise ValueError(f"the mark of step {name} needs another name")
        self._ledger, self._operations = services.ledger, services.operations
        self._transaction, self._begin, self._mark = transaction, begin, mark
        self._theirs: peewee.PeeweeException | None = None  # of what a function of the type wrote
        self._shared = services.checkpoints
        self._timeout = services.settings.worker.redis_timeout
        self._id, self._token = delivery.id, delivery.token
        self._name = name
        self._log = log
        self._kept = False
        self._unavailable: RedisUnavailable | None = None
        self.result: str | None = None  # JSON text
        self.value: Any = None  # its value
        self.done = False
        self.end = end  # None once it is written
        self.tasks: Sequence[NewTask] = ()  # that the last transaction inserted

    async def look(self, kept_result: Awaitable[str | None]) -> None:
        """Find the `result` that an earlier attempt left in Redis."""
        try:
            self.result = await kept_result
            self._kept = self.result is not None
        except RedisUnavailable as error:
            self._unavailable = error

    async def begin(self) -> None:
        """As `begin_now`, in one transaction with others."""
        await self._shared.begins.run(self._ledger.database, self._id, self.begin_now)

    def begin_now(self) -> None:
        """Begin the step, or find that it is `done`, with its `result`, in the database.

        Raises DatabaseUnavailable, RedisUnavailable when an earlier attempt may have left a result there, and what the
        type's `begin` raises.
        """
        try:
            step = self._ledger.begin_step(
                self._id, self._token, self._name, has_result=self._kept, also=self._begin and self._begun
            )
        except peewee.PeeweeException as error:
            if error is self._theirs:
                raise
            raise self._refusal(error) from error
        if step.state == "done":
            self.done, self.result = True, step.value or "null"
        elif self._unavailable is not None and step.interrupted:
            raise self._unavailable

    async def save(self, also: Callable[[], None] | None) -> None:
        """Write the result and what `also` writes, and keep the result in Redis while the database takes its time.

        Raises DatabaseUnavailable for a fault of our tables and for an error that nobody knows, and what `also` raises
        on purpose, but only once Redis has the result: the next attempt begins with it.
        """
        pause, end = _PAUSE, self.end
        while not self.done:
            write = partial(self._write, also, end)
            writing = asyncio.ensure_future(self._shared.ends.run(self._ledger.database, self._id, write))
            await asyncio.wait((writing,), timeout=_PROMPT)
            while not writing.done():
                kept = await self._keeping(writing)
                await asyncio.wait((writing,), timeout=_LONGEST_PAUSE if kept else _PROMPT)
            error = writing.exception()
            if error is None:
                self.done = True
                self.end = None if end else self.end
            elif isinstance(error, Lost) or not isinstance(error, Exception):
                raise error
            elif end:
                end = None  # the result alone
            else:
                kept = await self._keeping()  # each time: Redis may have been emptied meanwhile
                self._judge(error, kept)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        if self._kept:
            dropping = asyncio.get_running_loop().run_in_executor(self._shared.redis, self._drop)
            await asyncio.wait((dropping,), timeout=self._timeout)

    def _judge(self, error: Exception, kept: bool) -> None:
        """Raise what ends the attempt; return where it tries again."""
        refusal = error if isinstance(error, _ON_PURPOSE) else self._refusal(error)
        known = isinstance(error, (*_ON_PURPOSE, peewee.PeeweeException))
        said, trace = "checkpoint waits for the database", None if known else error
        more = {"step": self._name, "kept_in_redis": kept, "exc_info": trace}
        DATABASE.failed(self._log(), said, refusal, "warning", **more)
        if kept and not isinstance(error, DatabaseUnavailable):
            raise refusal from error

    async def _keeping(self, *writing: asyncio.Future[Any]) -> bool:
        """Keep the result in Redis, unless it is written before; return whether Redis is known to have it."""
        keeping = asyncio.get_running_loop().run_in_executor(self._shared.redis, self._keep)
        await asyncio.wait((keeping, *writing), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        return not keeping.cancel() and keeping.result()

    # -- on the threads

    def write_end(self, transaction: Transaction) -> None:
        """Write the end after the result, in a transaction of its own."""
        if self.end and (self._mark is None or transaction.mark(self._mark)):
            self.end(transaction, self.value)

    def _begun(self, step: Step) -> None:
        assert self._begin is not None
        self.tasks = ()
        transaction = self._transaction()
        has_result = step.state == "done" or self._kept or (self._unavailable is not None and step.interrupted > 0)
        try:
            self._begin(transaction, not has_result)
        except peewee.PeeweeException as error:
            self._theirs = error
            raise
        self.tasks = transaction.tasks

    def _write(self, also: Callable[[], None] | None, end: Callable[[Transaction, Any], None] | None) -> None:
        def ends() -> None:
            assert end is not None
            transaction = self._transaction()
            end(transaction, self.value)
            self.tasks = transaction.tasks

        self.tasks = ()
        assert self.result is not None
        more = also, ends if end else None, self._mark
        self._ledger.finish_step(self._id, self._token, self._name, self.result, *more)

    def _keep(self) -> bool:
        """Whether Redis has the result now: not while it is unavailable, nor when another attempt has the task."""
        assert self.result is not None
        try:
            kept = self._operations.keep_result(self._id, self._token, self._name, self.result)
        except RedisUnavailable:
            return False
        self._kept = self._kept or kept
        return kept

    def _drop(self) -> None:
        with suppress(RedisUnavailable):  # the reconciler drops it once the task has ended
            self._operations.drop_result(self._id, self._name)

    def forget(self) -> None:
        """Remove a step that failed with an answer; while the database is unavailable it counts as interrupted."""
        with suppress(DatabaseUnavailable, peewee.PeeweeException):
            self._ledger.forget_step(self._id, self._token, self._name)

    def _refusal(self, error: Exception) -> DatabaseUnavailable:
        if not isinstance(error, peewee.PeeweeException):
            return DatabaseUnavailable(f"the checkpoint of step {self._name} failed: {type(error).__name__}")
        return refusals.of_own_tables(error, f"the checkpoint of step {self._name}")
