"""Accepts tasks: the submissions of many requests share one transaction and one dispatch.

Owns the one thread that writes to the ledger and the one that dispatches. A caller is answered once its row is
committed; Redis only speeds things up and therefore never makes anyone wait. Must not know what a task is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from sytq.api.problems import Taken
from sytq.batcher import Batcher
from sytq.errors import DatabaseUnavailable, Overloaded
from sytq.ledger import insert
from sytq.ledger.database import read, transact
from sytq.ledger.idempotency import Answer, Claim, claim, correct, find
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Task
from sytq.service.submission import Submitter

log = structlog.get_logger(__name__)

#: Of one batch. The characters are those of payloads: a batch stays far below MySQL's max_allowed_packet.
_MAX_TASKS, _MAX_CHARACTERS = 500, 4 << 20
_MAX_WAITING = 10_000
_MAX_UNDISPATCHED = 5_000
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
        self._batcher = Batcher(
            self._accept, name="submissions", max_waiting=_MAX_WAITING, max_size=1.0, size=_share_of_batch
        )
        self._dispatches = Batcher(self._dispatch, name="tasks", max_waiting=_MAX_UNDISPATCHED)
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
        with `each` all but that task. Raises Overloaded, Taken for that, DatabaseUnavailable and whatever the database
        says against these tasks (never against another's).
        """
        return await self._batcher.add(_Waiter(tasks, also, claim, sees, each))

    async def answered(self, claim: Claim) -> Accepted | None:
        """What an earlier request with the same Idempotency-Key got. Raises DatabaseUnavailable."""
        look = partial(read, self._ledger.database, partial(find, claim))
        answer = await asyncio.get_running_loop().run_in_executor(self._writer, look)
        return _repeated(answer) if answer else None

    def writing_for(self) -> float:
        """For how many seconds the batch under way has been being written; 0 when none is."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since

    async def close(self) -> None:
        """Wait until everything that was taken is written and dispatched."""
        await self._batcher.drain()
        await self._dispatches.drain()
        self._writer.shutdown()
        self._dispatcher.shutdown(wait=False)

    # -- on the event loop

    async def _accept(self, batch: list[_Waiter]) -> list[Accepted | Exception]:
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        try:
            outcomes = await loop.run_in_executor(self._writer, self._write, batch)
        finally:
            self._since = None
        with suppress(Overloaded):  # the reconciler dispatches the rest
            for waiter in batch:
                for task in _new(waiter, outcomes[waiter]):
                    self._dispatches.add(task)
        unavailable = next((e for e in outcomes.values() if isinstance(e, DatabaseUnavailable)), None)
        if unavailable is not None:  # later submissions would wait just as long for the same answer
            self._batcher.fail_waiting(unavailable)
        return [outcomes[waiter] for waiter in batch]

    async def _dispatch(self, tasks: list[NewTask]) -> list[None]:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._redis_resumes:
            try:
                dispatched = await loop.run_in_executor(self._dispatcher, self._submitter.dispatch, tasks)
            except Exception:
                log.exception("dispatch failed: the reconciler will do it", tasks=len(tasks))
                dispatched = 0
            if not dispatched:
                self._redis_resumes = loop.time() + _REDIS_PAUSE
        return [None] * len(tasks)

    # -- on the writer's thread

    def _write(self, batch: list[_Waiter]) -> dict[_Waiter, Accepted | Exception]:
        """Write a batch in one transaction; return what each waiter gets, or what went wrong."""
        try:
            return transact(self._ledger.database, lambda: self._insert(batch))
        except DatabaseUnavailable as error:
            return dict.fromkeys(batch, error)
        except _Hidden as refused:
            others = [waiter for waiter in batch if waiter not in refused.waiters]
            return {waiter: Taken() for waiter in refused.waiters} | (self._write(others) if others else {})
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
                outcomes[waiter] = _repeated(answer)
            else:
                new.append(waiter)
                if waiter.also is not None:
                    waiter.also()
        tasks = [task for waiter in new for task in waiter.tasks]
        acceptances = zip(tasks, self._ledger.insert(tasks), strict=True)
        standing = {task.id: found.id for task, found in acceptances if isinstance(found, insert.Existing)}
        hidden = _hidden(new, standing) if standing else {}
        for waiter in new:
            ids = [task.id for task in waiter.tasks]
            existing = [task_id in standing for task_id in ids] if standing else [False] * len(ids)
            if any(existing):
                ids = ["" if task_id in hidden[waiter] else standing.get(task_id, task_id) for task_id in ids]
                if waiter.claim:
                    correct(waiter.claim, [_acceptance(*one) for one in zip(ids, existing, strict=True)])
            outcomes[waiter] = Accepted(tuple(ids), tuple(existing))
        return outcomes


def _repeated(answer: Answer) -> Accepted:
    ids = tuple("" if isinstance(task, insert.Refused) else task.id for task in answer.tasks)
    existing = tuple(not isinstance(task, insert.Accepted) for task in answer.tasks)
    return Accepted(ids, existing, True, answer.fingerprint)


def _acceptance(task_id: str, existing: bool) -> insert.Acceptance:
    if existing:
        return insert.Existing(task_id) if task_id else insert.Refused()
    return insert.Accepted(task_id)


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


def _share_of_batch(waiter: _Waiter) -> float:
    characters = sum(len(task.payload) for task in waiter.tasks)
    return max(len(waiter.tasks) / _MAX_TASKS, characters / _MAX_CHARACTERS)
