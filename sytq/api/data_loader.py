"""Lookups of tasks by id, many in one query.

A thread for each lookup costs more than the lookup, and there are too few threads when all clients that wait for tasks
wake at once. Must not know whose task it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sytq.api.live import LiveView
from sytq.api.threads import Threads
from sytq.batcher import Batcher
from sytq.broker.inspection import Live
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Attempt, Step, Task

T = TypeVar("T")

#: Ids of ours are UUIDs; a program that inserts rows itself may choose others.
_ID = re.compile(r"[!-.0-~]{1,36}")
_MAX_BATCH = 50  # a row may have megabytes of payload and result
_MAX_WAITING = 5_000


class DataLoader:
    """Looks tasks up by id. Belongs to one event loop. Both methods raise Overloaded and DatabaseUnavailable."""

    def __init__(self, ledger: Ledger, live: LiveView, threads: Threads) -> None:
        self._ledger = ledger
        self._live = live
        self._threads = threads
        self._rows = _Lookups("lookups of tasks", self._read)
        self._histories = _Lookups("lookups of attempts", self._read_histories)

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


class _Lookups(Generic[T]):
    """Lookups of one kind; those of the same id share one until it is taken to the database."""

    def __init__(self, name: str, read: Callable[[list[str]], Awaitable[dict[str, T]]]) -> None:
        self._read = read
        self._waiting: dict[str, asyncio.Future[T | None]] = {}
        self._batcher = Batcher(self._read_all, name=name, max_waiting=_MAX_WAITING, max_size=_MAX_BATCH)

    async def get(self, task_id: str) -> T | None:
        found = self._waiting.get(task_id)
        if found is None:
            found = self._waiting[task_id] = self._batcher.add(task_id)
        return await asyncio.shield(found)

    async def _read_all(self, ids: list[str]) -> list[T | None]:
        for task_id in ids:
            del self._waiting[task_id]
        found = await self._read(ids)
        return [found.get(task_id) for task_id in ids]
