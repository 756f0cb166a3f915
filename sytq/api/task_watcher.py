"""What becomes of tasks that somebody waits for: one look at the stores for all of them.

Owns the list of watched tasks and how often they are looked at. One loop a process asks Redis for all their states at
once, however many wait, and the ledger for those that Redis does not know or that have ended there: a task has ended
for us when its row says so, as the result is in the row. Must not know a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from sytq.api.threads import Threads
from sytq.broker.inspection import Inspection
from sytq.errors import DatabaseUnavailable, Overloaded, RedisUnavailable
from sytq.ledger.ledger import Ledger
from sytq.states import TERMINAL

log = structlog.get_logger(__name__)

#: Seconds between two looks, and at least so many times what a look took.
_EVERY, _SHARE = 0.1, 4
#: Between two looks at the ledger for tasks that Redis does not know.
_LEDGER_EVERY = 1.0
_PATIENCE = 1.0
_MOST = 2_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A task at one moment."""

    state: str
    attempts: int
    progress: Any
    ended: bool

    @property
    def version(self) -> str:
        """A short word that changes with the task."""
        text = json.dumps([self.state, self.attempts, self.progress, self.ended], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(eq=False, slots=True)
class Watched:
    """A watched task: what was last seen of it, and a future that is done when that changes."""

    listeners: int = 0
    sight: Snapshot | None = None
    changed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TaskWatcher:
    """Belongs to one event loop."""

    def __init__(self, inspection: Inspection, ledger: Ledger, redis: Threads, sql: Threads) -> None:
        self._inspection = inspection
        self._ledger = ledger
        self._redis = redis
        self._sql = sql
        self._watched: dict[str, Watched] = {}
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Raise Busy when too many wait in this process."""
        if self._listeners >= _MOST:
            raise Overloaded("too many wait for tasks; ask again later")

    @asynccontextmanager
    async def of(self, task_id: str) -> AsyncIterator[Watched]:
        """Watch a task. Raises as `check_room`."""
        self.check_room()
        watched = self._watched.setdefault(task_id, Watched())
        watched.listeners += 1
        self._listeners += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_again_and_again())
        try:
            yield watched
        finally:
            self._listeners -= 1
            watched.listeners -= 1
            if not watched.listeners:
                del self._watched[task_id]

    async def ended(self, task_id: str, seconds: float, stop: asyncio.Event | None = None) -> bool:
        """Wait until a task has ended; False when it has not within `seconds`, or `stop` is set. Raises Busy."""
        async with self.of(task_id) as watched:
            deadline = time.monotonic() + seconds
            while watched.sight is None or not watched.sight.ended:
                if not await changed(watched, deadline - time.monotonic(), stop):
                    return False
        return True

    async def _look_again_and_again(self) -> None:
        asked_ledger = 0.0
        try:
            while self._watched:
                began = time.monotonic()
                ledger = began >= asked_ledger + _LEDGER_EVERY
                if ledger:
                    asked_ledger = began
                try:
                    await self._look(list(self._watched), unknown_too=ledger)
                except (DatabaseUnavailable, Overloaded) as error:
                    log.warning("watched tasks cannot be looked at", error=str(error))
                except Exception:
                    log.exception("watched tasks cannot be looked at")
                await asyncio.sleep(max(_EVERY, (time.monotonic() - began) * _SHARE))
        finally:
            self._looking = None

    async def _look(self, ids: list[str], *, unknown_too: bool) -> None:
        try:
            live = await asyncio.wait_for(self._redis.run(self._inspection.live, ids), _PATIENCE)
        except (RedisUnavailable, TimeoutError, Overloaded):
            live = {}
        asked = [i for i in ids if (live[i].state in TERMINAL if i in live else unknown_too)]
        rows = await self._sql.run(self._ledger.some, asked) if asked else {}
        for task_id in ids:
            row, seen = rows.get(task_id), live.get(task_id)
            if row is not None and row.state in TERMINAL:
                sight = Snapshot(row.state, row.attempts, _progress(row.progress), True)
            elif seen is not None and seen.state not in TERMINAL:
                sight = Snapshot(seen.state, seen.attempts, seen.progress, False)
            elif row is not None:
                sight = Snapshot(row.state, row.attempts, _progress(row.progress), False)
            else:
                continue
            watched = self._watched.get(task_id)
            if watched is not None and watched.sight != sight:
                watched.sight = sight
                told, watched.changed = watched.changed, asyncio.get_running_loop().create_future()
                told.set_result(None)


async def changed(watched: Watched, seconds: float, stop: asyncio.Event | None = None) -> bool:
    """Wait for the next change; False after `seconds`, or when `stop` is set."""
    if seconds <= 0 or (stop is not None and stop.is_set()):
        return False
    change = watched.changed
    stopped = asyncio.ensure_future(stop.wait()) if stop is not None else None
    either: set[asyncio.Future[Any]] = {change, stopped} if stopped is not None else {change}
    await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if stopped is not None:
        stopped.cancel()
    return change.done()


def _progress(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
