"""Natural batching: submissions that arrive while one batch is being written are the next batch.

Owns the waiting list, the one thread that writes to the ledger and the one that tells Redis. A caller is
answered once its row is committed; Redis only speeds things up and therefore never makes anyone wait. Must
not know what a task is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from sytq.api.problems import Taken
from sytq.api.threads import Overloaded
from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import read, transact
from sytq.ledger.idempotency import Claim, claim, correct, find
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Task
from sytq.service.submission import Submitter

log = structlog.get_logger(__name__)

_BATCH_TASKS = 500
_BATCH_CHARACTERS = 4 << 20  # of payload, so that a batch stays far below MySQL's max_allowed_packet
_WAITING = 10_000
_UNDISPATCHED = 5_000
#: Seconds without a try after Redis did not take a batch; the reconciler dispatches what was accepted then.
_REDIS_PAUSE = 1.0


@dataclass(slots=True)
class Accepted:
    """What became of a submission: an id for each of its tasks, and whether that one stood already, under its unique
    key; "" for one that was refused, as a task that the caller may not see has its key. `repeats` says that an earlier
    request with the same Idempotency-Key made them, and this one nothing; `fingerprint` is then that request's."""

    ids: tuple[str, ...]
    existing: tuple[bool, ...]
    repeats: bool = False
    fingerprint: str | None = None


@dataclass(eq=False, slots=True)
class _Waiter:
    tasks: Sequence[NewTask]
    also: Callable[[], None] | None
    claim: Claim | None
    sees: Callable[[str | None], bool]
    each: bool
    answered: asyncio.Future[Accepted]


class _Hidden(Exception):
    """These waiters cannot have what they want, and nothing of them may stay written."""

    def __init__(self, waiters: Collection[_Waiter]) -> None:
        super().__init__()
        self.waiters = waiters


class SubmissionBatcher:
    """Accepts tasks in batches. Belongs to one event loop."""

    def __init__(self, ledger: Ledger, submitter: Submitter) -> None:
        self._ledger = ledger
        self._submitter = submitter
        self._waiting: list[_Waiter] = []
        self._committed: list[NewTask] = []
        self._writing: asyncio.Task[None] | None = None
        self._dispatching: asyncio.Task[None] | None = None
        self._since: float | None = None  # when the batch under way was begun
        self._redis_resumes = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sytq-api-writer")
        self._dispatcher = ThreadPoolExecutor(1, thread_name_prefix="sytq-api-dispatcher")

    async def submit(
        self,
        tasks: Sequence[NewTask],
        also: Callable[[], None] | None = None,
        claim: Claim | None = None,
        *,
        sees: Callable[[str | None], bool] = lambda owner: True,
        each: bool = False,
    ) -> Accepted:
        """Return when `tasks`, and what `also` writes, are committed, all or none: the id of each, or that of the
        unfinished task that has its unique key already. A `claim` that stands already brings that request's ids.

        `also` runs in the batch's transaction, on another thread and perhaps several times. `sees(owner)` tells whether
        the caller may know of the tasks of an owner: where one that it may not has the key, nothing is accepted, or
        with `each` all but that task. Raises Busy, Taken for that, DatabaseUnavailable and whatever the database says
        against these tasks (never against another's).
        """
        if len(self._waiting) >= _WAITING:
            raise Overloaded("too many submissions wait; nothing was accepted, try again")
        loop = asyncio.get_running_loop()
        waiter = _Waiter(tasks, also, claim, sees, each, loop.create_future())
        self._waiting.append(waiter)
        if self._writing is None:
            self._writing = loop.create_task(self._write_all())
        return await waiter.answered

    async def answered(self, claim: Claim) -> Accepted | None:
        """What an earlier request with the same Idempotency-Key got. Raises DatabaseUnavailable."""
        look = partial(read, self._ledger.database, partial(find, claim))
        answer = await asyncio.get_running_loop().run_in_executor(self._writer, look)
        return Accepted(answer.ids, answer.existing, True, answer.fingerprint) if answer else None

    def writing_for(self) -> float:
        """For how many seconds the batch under way has been being written; 0 when none is."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since

    async def close(self) -> None:
        """Wait until everything that was taken is written and handed over."""
        while running := [task for task in (self._writing, self._dispatching) if task is not None]:
            await asyncio.wait(running)
        self._writer.shutdown()
        self._dispatcher.shutdown(wait=False)

    # -- on the event loop

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = self._take()
                self._since = loop.time()
                outcomes = await loop.run_in_executor(self._writer, self._write, batch)
                for waiter in batch:
                    _answer(waiter, outcomes[waiter])
                self._hand_over([task for waiter in batch for task in _new(waiter, outcomes[waiter])])
                away = next((e for e in outcomes.values() if isinstance(e, DatabaseUnavailable)), None)
                if away is not None:
                    # Whoever came meanwhile would wait just as long for the same answer.
                    waiting, self._waiting = self._waiting, []
                    for waiter in waiting:
                        _answer(waiter, away)
        finally:
            self._writing = self._since = None

    def _take(self) -> list[_Waiter]:
        """The next batch; those whose client went away before are dropped, as nothing was promised."""
        size = count = tasks = 0
        for waiter in self._waiting:
            if count and (tasks >= _BATCH_TASKS or size >= _BATCH_CHARACTERS):
                break
            count += 1
            tasks += len(waiter.tasks)
            size += sum(len(task.payload) for task in waiter.tasks)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return [waiter for waiter in taken if not waiter.answered.cancelled()]

    def _hand_over(self, tasks: list[NewTask]) -> None:
        if not tasks or len(self._committed) + len(tasks) > _UNDISPATCHED:
            return
        self._committed += tasks
        if self._dispatching is None:
            self._dispatching = asyncio.get_running_loop().create_task(self._dispatch_all())

    async def _dispatch_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._committed:
                tasks, self._committed = self._committed, []
                if loop.time() < self._redis_resumes:
                    continue
                try:
                    entered = await loop.run_in_executor(self._dispatcher, self._submitter.dispatch, tasks)
                except Exception:
                    log.exception("dispatch failed: the reconciler will do it", tasks=len(tasks))
                    entered = 0
                if not entered:
                    self._redis_resumes = loop.time() + _REDIS_PAUSE
        finally:
            self._dispatching = None

    # -- on the writer's thread

    def _write(self, batch: list[_Waiter]) -> dict[_Waiter, Accepted | Exception]:
        """Write a batch in one transaction; return what each waiter gets, or what went wrong."""
        if not batch:
            return {}
        try:
            return transact(self._ledger.database, lambda: self._insert(batch))
        except DatabaseUnavailable as error:
            return dict.fromkeys(batch, error)
        except _Hidden as refused:
            others = [waiter for waiter in batch if waiter not in refused.waiters]
            return {waiter: Taken() for waiter in refused.waiters} | self._write(others)
        except Exception as error:
            if len(batch) == 1:
                return {batch[0]: error}
            # One of them is at fault and only that one shall hear of it.
            half = len(batch) // 2
            return self._write(batch[:half]) | self._write(batch[half:])

    def _insert(self, batch: list[_Waiter]) -> dict[_Waiter, Accepted | Exception]:
        claims = [(waiter.claim, [task.id for task in waiter.tasks]) for waiter in batch if waiter.claim]
        taken = claim(claims)
        outcomes: dict[_Waiter, Accepted | Exception] = {}
        new = []
        for waiter in batch:
            answer = taken.get(waiter.claim) if waiter.claim else None
            if answer is not None:
                outcomes[waiter] = Accepted(answer.ids, answer.existing, True, answer.fingerprint)
            else:
                new.append(waiter)
                if waiter.also is not None:
                    waiter.also()
        standing = self._ledger.insert(task for waiter in new for task in waiter.tasks)
        hidden = _hidden(new, standing) if standing else {}
        for waiter in new:
            ids = [task.id for task in waiter.tasks]
            existing = [task_id in standing for task_id in ids] if standing else [False] * len(ids)
            if any(existing):
                ids = ["" if task_id in hidden[waiter] else standing.get(task_id, task_id) for task_id in ids]
                if waiter.claim:
                    correct(waiter.claim, ids, existing)
            outcomes[waiter] = Accepted(tuple(ids), tuple(existing))
        return outcomes


def _hidden(waiters: list[_Waiter], standing: dict[str, str]) -> dict[_Waiter, set[str]]:
    """The tasks of each waiter for which one stands that its caller may not see.

    Raises _Hidden for those who want all or none, or are left with none: what they wrote must go.
    """
    there = Task.select(Task.id, Task.owner).where(Task.id.in_(list(set(standing.values()))))
    owners = {row.id: row.owner for row in there}
    hidden = {
        waiter: {
            task.id
            for task in waiter.tasks
            if (other := standing.get(task.id)) in owners and not waiter.sees(owners[other])
        }
        for waiter in waiters
    }
    refused = {waiter for waiter, ids in hidden.items() if ids and not (waiter.each and len(ids) < len(waiter.tasks))}
    if refused:
        raise _Hidden(refused)
    return hidden


def _new(waiter: _Waiter, outcome: Accepted | Exception) -> list[NewTask]:
    """Those tasks of a waiter that were inserted."""
    if isinstance(outcome, Exception) or outcome.repeats:
        return []
    return [task for task, task_id in zip(waiter.tasks, outcome.ids, strict=True) if task.id == task_id]


def _answer(waiter: _Waiter, outcome: Accepted | Exception) -> None:
    if waiter.answered.done():
        return
    if isinstance(outcome, Accepted):
        waiter.answered.set_result(outcome)
    else:
        waiter.answered.set_exception(outcome)
