"""Lookups of tasks by id, many in one query, with the newer states from Redis.

A thread for each lookup costs more than the lookup, and threads run out when all waiting clients wake at once.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from sytq.api.threads import Threads
from sytq.batcher import Batcher
from sytq.broker.inspection import Inspection
from sytq.broker.state_index import Live
from sytq.errors import Overloaded, RedisUnavailable
from sytq.ledger.ledger import History, Ledger
from sytq.ledger.models import Task
from sytq.service import live_state
from sytq.states import TERMINAL

T = TypeVar("T")

#: sytq's ids are UUIDs; a program that inserts rows may choose others.
_ID = re.compile(r"[!-.0-~]{1,36}")
_MAX_BATCH = 50  # a row may have megabytes of payload and result
_MAX_WAITING = 5_000
#: Seconds that Redis has for an answer, and for which it is not asked after it gave none: only rows are used then.
_REDIS_TIMEOUT, _REDIS_PAUSE = 1.0, 5.0


class DataLoader:
    """Belongs to one event loop. The methods raise Overloaded and DatabaseUnavailable."""

    def __init__(self, ledger: Ledger, inspection: Inspection, sql: Threads, redis: Threads) -> None:
        self._ledger = ledger
        self._inspection = inspection
        self._sql = sql
        self._redis = redis
        self._redis_resumes = 0.0
        self._rows = _Lookups("lookups of tasks", self._read)
        self._histories = _Lookups("lookups of attempts", lambda ids: sql.run(ledger.histories, ids))

    async def get(self, task_id: str) -> tuple[Task | None, Live | None]:
        """Return the row and the newer state, if any; no row for an invalid id."""
        found = await self._rows.get(task_id) if _ID.fullmatch(task_id) else None
        return found or (None, None)

    async def history(self, task_id: str) -> History:
        """Return the attempts of a task and its checkpoints."""
        return await self._histories.get(task_id) or History([], [], None)

    @property
    def is_redis_away(self) -> bool:
        """Whether Redis gave no answer lately, so that rows alone are shown."""
        return time.monotonic() < self._redis_resumes

    async def newer(self, rows: Iterable[Task]) -> dict[str, Live]:
        """Return the states that are newer in Redis than in the rows; none while Redis does not answer."""
        unfinished = [row for row in rows if row.state not in TERMINAL]
        if not unfinished or self.is_redis_away:
            return {}
        try:
            newer = self._redis.run(live_state.newer, self._inspection, unfinished)
            return await asyncio.wait_for(newer, _REDIS_TIMEOUT)
        except (RedisUnavailable, TimeoutError, Overloaded):
            self._redis_resumes = time.monotonic() + _REDIS_PAUSE
            return {}

    async def _read(self, ids: list[str]) -> dict[str, tuple[Task, Live | None]]:
        rows = await self._sql.run(self._ledger.some, ids)
        newer = await self.newer(rows.values())
        return {task_id: (row, newer.get(task_id)) for task_id, row in rows.items()}


class _Lookups(Generic[T]):
    """Lookups of one kind; lookups of the same id are shared until the query starts."""

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
