"""Watches all tasks that clients wait for in one loop.

The loop asks Redis for all their states at once, and the ledger for tasks that Redis does not know or that have ended
there: a task has ended once its row says so, as the result is in the row.
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
from sytq.observability.outages import log_failure
from sytq.service.live_state import current
from sytq.states import TERMINAL

log = structlog.get_logger(__name__)

#: Minimum seconds between two polls, and the minimum as a multiple of a poll's duration.
_POLL_SECONDS, _POLL_SHARE = 0.1, 4
#: Seconds between two polls of the ledger for tasks that Redis does not know.
_LEDGER_SECONDS = 1.0
_REDIS_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A task at one moment."""

    state: str
    attempts: int
    progress: Any
    ended: bool

    @property
    def version(self) -> str:
        """A short text that changes with the task, and tells its end."""
        text = json.dumps([self.state, self.attempts, self.progress, self.ended], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16] + (":ended" if self.ended else "")


@dataclass(eq=False, slots=True)
class Watched:
    """A watched task: its last snapshot, and a future that is done when the task changes."""

    listeners: int = 0
    snapshot: Snapshot | None = None
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
        self.max_listeners = 2_000
        self._polling: asyncio.Task[None] | None = None

    def check_capacity(self) -> None:
        """Raise Overloaded when too many clients wait in this process."""
        if self._listeners >= self.max_listeners:
            raise Overloaded("too many clients wait for tasks; try again later")

    @asynccontextmanager
    async def watch(self, task_id: str) -> AsyncIterator[Watched]:
        """Watch a task. Raises Overloaded."""
        self.check_capacity()
        watched = self._watched.setdefault(task_id, Watched())
        watched.listeners += 1
        self._listeners += 1
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll_until_unwatched())
        try:
            yield watched
        finally:
            self._listeners -= 1
            watched.listeners -= 1
            if not watched.listeners:
                del self._watched[task_id]

    async def ended(self, task_id: str, timeout: float, stop: asyncio.Event) -> bool:
        """Wait until a task has ended; False after `timeout` seconds, or when `stop` is set. Raises Overloaded."""
        async with self.watch(task_id) as watched:
            deadline = time.monotonic() + timeout
            while watched.snapshot is None or not watched.snapshot.ended:
                if not await change(watched, deadline - time.monotonic(), stop):
                    return False
        return True

    async def _poll_until_unwatched(self) -> None:
        asked_ledger = 0.0
        try:
            while self._watched:
                began = time.monotonic()
                ledger = began >= asked_ledger + _LEDGER_SECONDS
                if ledger:
                    asked_ledger = began
                try:
                    await self._poll(list(self._watched), unknown_too=ledger)
                except (DatabaseUnavailable, Overloaded) as error:
                    log_failure(log, "watched tasks not polled", error)
                except Exception:
                    log.exception("watched tasks not polled")
                await asyncio.sleep(max(_POLL_SECONDS, (time.monotonic() - began) * _POLL_SHARE))
        finally:
            self._polling = None

    async def _poll(self, ids: list[str], *, unknown_too: bool) -> None:
        try:
            live = await asyncio.wait_for(self._redis.run(self._inspection.live, ids), _REDIS_TIMEOUT)
        except (RedisUnavailable, TimeoutError, Overloaded):
            live = {}
        asked = [i for i in ids if (live[i].state in TERMINAL if i in live else unknown_too)]
        rows = await self._sql.run(self._ledger.some, asked) if asked else {}
        for task_id in ids:
            row, seen = rows.get(task_id), live.get(task_id)
            if row is not None:
                now = current(row, seen, with_result=True)
                snapshot = Snapshot(now.state, now.attempts, now.progress, row.state in TERMINAL)
            elif seen is not None and seen.state not in TERMINAL:
                snapshot = Snapshot(seen.state, seen.attempts, seen.progress, False)
            else:
                continue
            watched = self._watched.get(task_id)
            if watched is not None and watched.snapshot != snapshot:
                watched.snapshot = snapshot
                changed, watched.changed = watched.changed, asyncio.get_running_loop().create_future()
                changed.set_result(None)


async def change(watched: Watched, timeout: float, stop: asyncio.Event) -> bool:
    """Wait for the next change; False after `timeout` seconds, or when `stop` is set."""
    if timeout <= 0 or stop.is_set():
        return False
    changed, stopped = watched.changed, asyncio.ensure_future(stop.wait())
    either: set[asyncio.Future[Any]] = {changed, stopped}
    await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return changed.done()
