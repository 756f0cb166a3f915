"""Accepts tasks: the submissions of many requests share one transaction and one dispatch.

A response is sent once the rows are committed; it never waits for Redis.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog

from sytq.api.problems import Taken
from sytq.batcher import Batcher
from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import read, transact
from sytq.ledger.idempotency import Claim, Submitted, correct, find, reserve
from sytq.ledger.insert import Acceptance, Accepted, Existing, NewTask, Refused
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.observability import logs
from sytq.service.ledger_check import LedgerCheck
from sytq.service.submission import Submitter

log = structlog.get_logger(__name__)

#: Limits of a batch; the characters are of payloads, to stay far below MySQL's max_allowed_packet.
_MAX_TASKS, _MAX_CHARACTERS = 500, 4 << 20
_MAX_WAITING = 10_000
#: Maximum of written tasks that wait for Redis; the reconciler dispatches later ones.
_MAX_UNDISPATCHED = 5_000
#: Seconds without dispatch after Redis failed; the reconciler dispatches tasks accepted meanwhile.
_REDIS_PAUSE = 1.0


@dataclass(slots=True)
class _Submission:
    tasks: Sequence[NewTask]
    also: Callable[[], None] | None
    claim: Claim | None
    can_see: Callable[[str | None], bool]
    all_or_none: bool
    written: Callable[[Submitted], None] | None


class SubmissionBatcher:
    """Belongs to one event loop."""

    def __init__(self, ledger: Ledger, submitter: Submitter, ledger_check: LedgerCheck) -> None:
        self._ledger = ledger
        self._submitter = submitter
        self._ledger_check = ledger_check
        self._batcher = Batcher(
            self._accept, name="submissions", max_waiting=_MAX_WAITING, max_size=1.0, size=_share_of_batch
        )
        self._since: float | None = None  # start of the current batch
        # A thread that has written a batch dispatches it too; meanwhile the other one writes the next.
        self._writers = ThreadPoolExecutor(2, thread_name_prefix="sytq-api-writer")
        self._undispatched: deque[NewTask] = deque()
        self._dispatching = threading.Lock()
        self._redis_resumes = 0.0

    def submit(
        self,
        tasks: Sequence[NewTask],
        also: Callable[[], None] | None = None,
        claim: Claim | None = None,
        *,
        can_see: Callable[[str | None], bool] = lambda owner: True,
        all_or_none: bool = True,
        written: Callable[[Submitted], None] | None = None,
    ) -> asyncio.Future[Submitted]:
        """Done once `tasks`, and what `also` writes, are committed; or with the result of an earlier claim.

        `also` runs in the batch's transaction, on another thread and perhaps several times. `can_see(owner)` says
        whether the caller may see an owner's tasks: a task whose unique key belongs to an invisible task is Refused.
        `written` gets the result before the caller does, and may log: the lines of a batch are written together.
        Raises Taken where that refuses the whole submission, Overloaded, DatabaseUnavailable and the database's errors
        about these tasks (never about another submission's).
        """
        return self._batcher.add(_Submission(tasks, also, claim, can_see, all_or_none, written))

    async def earlier(self, claim: Claim) -> Submitted | None:
        """Return the result of an earlier request with the same Idempotency-Key. Raises DatabaseUnavailable."""
        look = partial(read, self._ledger.database, partial(find, claim))
        return await asyncio.get_running_loop().run_in_executor(self._writers, look)

    def writing_for(self) -> float:
        """Seconds since the current batch began; 0 without one."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since

    async def close(self) -> None:
        """Wait until all submissions are written and dispatched."""
        await self._batcher.drain()
        await asyncio.to_thread(self._writers.shutdown)

    # -- on the event loop

    async def _accept(self, batch: list[_Submission]) -> list[Submitted | Exception]:
        written: Future[list[Submitted | Exception]] = Future()
        self._since = asyncio.get_running_loop().time()
        try:
            self._writers.submit(self._process, batch, written)
            results = await asyncio.wrap_future(written)
        finally:
            self._since = None
        with logs.together():
            for submission, result in zip(batch, results, strict=True):
                if submission.written is not None and isinstance(result, Submitted):
                    submission.written(result)
        unavailable = next((result for result in results if isinstance(result, DatabaseUnavailable)), None)
        if unavailable is not None:  # later submissions would wait as long for the same error
            self._ledger_check.refused()
            self._batcher.fail_waiting(unavailable)
        return results

    # -- on the writers' threads

    def _process(self, batch: list[_Submission], written: Future[list[Submitted | Exception]]) -> None:
        """Write a batch, which the event loop then answers, and dispatch its tasks, unless the other thread does."""
        try:
            results = self._write(batch)
            new = list(_dispatchable(batch, results))
        except BaseException as error:  # the loop would wait for ever
            written.set_exception(error)
            return
        if new:
            self._ledger_check.accepted()
        if len(self._undispatched) < _MAX_UNDISPATCHED:
            self._undispatched.extend(new)
        written.set_result(results)
        while self._undispatched and self._dispatching.acquire(blocking=False):
            try:
                self._dispatch([self._undispatched.popleft() for _ in range(len(self._undispatched))])
            finally:
                self._dispatching.release()

    def _dispatch(self, tasks: list[NewTask]) -> None:
        if time.monotonic() < self._redis_resumes:
            return
        try:
            dispatched = self._submitter.dispatch(tasks)
        except Exception:
            log.exception("dispatch failed: the reconciler will do it", tasks=len(tasks))
            dispatched = 0
        if not dispatched:
            self._redis_resumes = time.monotonic() + _REDIS_PAUSE

    def _write(self, batch: list[_Submission]) -> list[Submitted | Exception]:
        """Write a batch in one transaction; return the result or error of each submission."""
        try:
            return [*transact(self._ledger.database, lambda: self._insert(batch))]
        except DatabaseUnavailable as error:
            return [error] * len(batch)
        except Exception as error:
            if len(batch) == 1:
                return [error]
            # One submission causes the error, and only that one gets it.
            half = len(batch) // 2
            return self._write(batch[:half]) + self._write(batch[half:])

    def _insert(self, batch: list[_Submission]) -> list[Submitted]:
        """Insert a batch inside a transaction. Raises Taken for a submission refused as a whole."""
        claims = [(one.claim, [task.id for task in one.tasks]) for one in batch if one.claim]
        answers = reserve(self._ledger.database, claims)
        new = [one for one in batch if one.claim not in answers]
        for one in new:
            if one.also is not None:
                one.also()
        inserted = self._ledger.insert([task for one in new for task in one.tasks])
        existing = [found.id for found in inserted if isinstance(found, Existing)]
        owners: dict[str, str | None] | None = None
        if existing:
            owners = {row.id: row.owner for row in Task.select(Task.id, Task.owner).where(Task.id.in_(existing))}
        rest = iter(inserted)
        return [
            answers[one.claim]
            if one.claim in answers
            else Submitted(_shown(one, tuple(islice(rest, len(one.tasks))), owners))
            for one in batch
        ]


def _dispatchable(batch: list[_Submission], results: list[Submitted | Exception]) -> Iterator[NewTask]:
    """The inserted tasks without open dependencies: held tasks are not in Redis yet."""
    for submission, result in zip(batch, results, strict=True):
        if isinstance(result, Submitted) and result.repeats is None:
            for task, acceptance in zip(submission.tasks, result.tasks, strict=True):
                if isinstance(acceptance, Accepted) and not task.after:
                    yield task


def _shown(
    submission: _Submission, inserted: tuple[Accepted | Existing, ...], owners: Mapping[str, str | None] | None
) -> tuple[Acceptance, ...]:
    """The result that the submitter may see; its claim gets the same. `owners` are those of the existing tasks, None
    where no task of the batch was there. Raises Taken.
    """
    if owners is None or all(isinstance(task, Accepted) for task in inserted):
        return inserted
    hidden = {task_id for task_id, owner in owners.items() if not submission.can_see(owner)}
    shown = tuple(Refused() if isinstance(task, Existing) and task.id in hidden else task for task in inserted)
    refused = shown.count(Refused())
    if refused and (submission.all_or_none or refused == len(shown)):
        raise Taken
    if submission.claim is not None:
        correct(submission.claim, shown)
    return shown


def _share_of_batch(submission: _Submission) -> float:
    characters = sum([len(task.payload) for task in submission.tasks])
    return max(len(submission.tasks) / _MAX_TASKS, characters / _MAX_CHARACTERS)
