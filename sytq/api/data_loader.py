"""Natural batching of lookups: those that arrive while one query runs are the next query.

Owns the waiting lists. A thread for each lookup costs more than the lookup, and when all who wait for tasks wake at
once there are not enough. Must not know whose task it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sytq.api.live import LiveView
from sytq.api.threads import Overloaded, Threads
from sytq.broker.inspection import Live
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Attempt, Step, Task

T = TypeVar("T")

#: Ids of ours are UUIDs; a program that inserts rows itself may choose others.
_ID = re.compile(r"[!-.0-~]{1,36}")
_BATCH = 50  # a row may have megabytes of payload and result
_WAITING = 5_000


class DataLoader:
    """Looks tasks up by id. Belongs to one event loop. Both methods raise Busy and DatabaseUnavailable."""

    def __init__(self, ledger: Ledger, live: LiveView, threads: Threads) -> None:
        self._ledger = ledger
        self._live = live
        self._threads = threads
        self._rows = _Gathered(self._read)
        self._histories = _Gathered(self._read_histories)

    async def get(self, task_id: str) -> tuple[Task | None, Live | None]:
        """The row, and what Redis knows newer while it answers; no row for what can be no id."""
        found = await self._rows.get(task_id) if _ID.fullmatch(task_id) else None
        return found or (None, None)

    async def history(self, task_id: str) -> tuple[list[Attempt], list[Step]]:
        """What happened at each start, and the checkpoints."""
        return await self._histories.get(task_id) or ([], [])

    async def _read(self, ids: list[str]) -> dict[str, tuple[Task, Live | None]]:
        rows = await self._threads.run(self._ledger.some, ids)
        live = await self._live.of(rows.values())
        return {task_id: (row, live.get(task_id)) for task_id, row in rows.items()}

    async def _read_histories(self, ids: list[str]) -> dict[str, tuple[list[Attempt], list[Step]]]:
        return await self._threads.run(self._ledger.histories, ids)


class _Gathered(Generic[T]):
    def __init__(self, read: Callable[[list[str]], Awaitable[dict[str, T]]]) -> None:
        self._read = read
        self._waiting: dict[str, asyncio.Future[T | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, task_id: str) -> T | None:
        answered = self._waiting.get(task_id)
        if answered is None:
            if len(self._waiting) >= _WAITING:
                raise Overloaded("too many lookups wait; try again")
            loop = asyncio.get_running_loop()
            answered = self._waiting[task_id] = loop.create_future()
            if self._reading is None:
                self._reading = loop.create_task(self._read_all())
        return await asyncio.shield(answered)  # others may wait for the same

    async def _read_all(self) -> None:
        try:
            while self._waiting:
                ids = list(self._waiting)[:_BATCH]
                batch = {task_id: self._waiting.pop(task_id) for task_id in ids}
                try:
                    found = await self._read(ids)
                except Exception as error:
                    for answered in batch.values():
                        answered.set_exception(error)
                else:
                    for task_id, answered in batch.items():
                        answered.set_result(found.get(task_id))
        finally:
            self._reading = None
