"""Natural batching: submissions that arrive while one batch is being written are the next batch.

Owns the waiting list, the one thread that writes to the ledger and the one that tells Redis. A caller is
answered once its row is committed; Redis only speeds things up and therefore never makes anyone wait. Must
not know what a task is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from sytq.api.threads import Busy
from sytq.errors import DatabaseUnavailable
from sytq.ledger import Ledger, NewTask
from sytq.submit import Submitter

log = structlog.get_logger(__name__)

_BATCH_TASKS = 500
_BATCH_CHARACTERS = 4 << 20  # of payload, so that a batch stays far below MySQL's max_allowed_packet
_WAITING = 10_000
_UNDISPATCHED = 5_000
#: Seconds without a try after Redis did not take a batch; the reconciler dispatches what was accepted then.
_REDIS_PAUSE = 1.0


@dataclass(eq=False, slots=True)
class _Waiter:
    tasks: Sequence[NewTask]
    also: Callable[[], None] | None
    answered: asyncio.Future[dict[str, str]]


class Acceptor:
    """Accepts tasks in batches. Belongs to one event loop."""

    def __init__(self, ledger: Ledger, submitter: Submitter) -> None:
        self._ledger = ledger
        self._submitter = submitter
        self._waiting: list[_Waiter] = []
        self._committed: list[NewTask] = []
        self._writing: asyncio.Task[None] | None = None
        self._dispatching: asyncio.Task[None] | None = None
        self._redis_resumes = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sytq-api-writer")
        self._dispatcher = ThreadPoolExecutor(1, thread_name_prefix="sytq-api-dispatcher")

    async def submit(self, task: NewTask, also: Callable[[], None] | None = None) -> str:
        """Return when `task`, and what `also` writes, is committed: its id, or the id of the unfinished task that
        has its unique key already. As `submit_all` otherwise."""
        standing = await self.submit_all([task], also)
        return standing.get(task.id, task.id)

    async def submit_all(self, tasks: Sequence[NewTask], also: Callable[[], None] | None = None) -> dict[str, str]:
        """Return when `tasks` are committed, all in one transaction: for those that an unfinished task with their
        unique key stands for, their id -> that task's.

        `also` runs in the batch's transaction, on another thread and perhaps several times. Raises Busy,
        DatabaseUnavailable and whatever the database says against these tasks (never against another's).
        """
        if len(self._waiting) >= _WAITING:
            raise Busy("too many submissions wait; nothing was accepted, try again")
        loop = asyncio.get_running_loop()
        waiter = _Waiter(tasks, also, loop.create_future())
        self._waiting.append(waiter)
        if self._writing is None:
            self._writing = loop.create_task(self._write_all())
        return await waiter.answered

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
                outcomes = await loop.run_in_executor(self._writer, self._write, batch)
                written: list[NewTask] = []
                for waiter in batch:
                    outcome = outcomes[waiter]
                    _answer(waiter, outcome)
                    if not isinstance(outcome, Exception):
                        written += [task for task in waiter.tasks if task.id not in outcome]
                self._hand_over(written)
                away = next((e for e in outcomes.values() if isinstance(e, DatabaseUnavailable)), None)
                if away is not None:
                    # Whoever came meanwhile would wait just as long for the same answer.
                    waiting, self._waiting = self._waiting, []
                    for waiter in waiting:
                        _answer(waiter, away)
        finally:
            self._writing = None

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

    def _write(self, batch: list[_Waiter]) -> dict[_Waiter, dict[str, str] | Exception]:
        """Write a batch in one transaction; return what each waiter gets, or what went wrong."""
        if not batch:
            return {}
        rows = [waiter.also for waiter in batch if waiter.also is not None]

        def also() -> None:
            for write in rows:
                write()

        try:
            standing = self._ledger.accept([task for waiter in batch for task in waiter.tasks], also if rows else None)
        except DatabaseUnavailable as error:
            return dict.fromkeys(batch, error)
        except Exception as error:
            if len(batch) == 1:
                return {batch[0]: error}
            # One of them is at fault and only that one shall hear of it.
            half = len(batch) // 2
            return self._write(batch[:half]) | self._write(batch[half:])
        if not standing:
            return dict.fromkeys(batch, standing)
        return {w: {task.id: standing[task.id] for task in w.tasks if task.id in standing} for w in batch}


def _answer(waiter: _Waiter, outcome: dict[str, str] | Exception) -> None:
    if waiter.answered.done():
        return
    if isinstance(outcome, Exception):
        waiter.answered.set_exception(outcome)
    else:
        waiter.answered.set_result(outcome)
