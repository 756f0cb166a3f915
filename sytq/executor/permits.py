"""Permits of the tasks of one event loop, acquired and released together: busy executors share round trips to Redis.

Must not decide who gets a permit (the scripts do).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sytq.batcher import Batcher
from sytq.broker.limiter import Limiters, Permit

#: Bounds one script call.
_MAX_BATCH = 50

_Request = tuple[bool, Permit]  # whether it is an acquisition


class PermitBatcher:
    """`Limiters` for the tasks of one event loop. A release need not be waited for."""

    def __init__(self, limiters: Limiters) -> None:
        self._limiters = limiters
        # Releases first: they make room. Then the oldest task, as in the wait queue.
        self._batcher = Batcher(
            self._process, name="permits", max_size=_MAX_BATCH, key=lambda request: (request[0], request[1].created)
        )
        # Its own: the others may all wait for a database. One, so that a permit is released after it was acquired.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="permits")

    async def acquire(self, permit: Permit) -> None:
        """Acquire a permit. Raises as `Limiters.acquire`; a caller cancelled before its turn acquires nothing."""
        await self._batcher.add((True, permit))

    async def release(self, permit: Permit) -> None:
        """Release a permit, also when the caller is cancelled meanwhile."""
        await asyncio.shield(self._batcher.add((False, permit)))

    async def _process(self, requests: list[_Request]) -> list[Exception | None]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, requests)

    def _call(self, requests: list[_Request]) -> list[Exception | None]:
        released = [permit for acquires, permit in requests if not acquires]
        acquired = [permit for acquires, permit in requests if acquires]
        self._limiters.release_all(released)
        return [None] * len(released) + self._limiters.acquire_all(acquired)
