"""Permits of the tasks of one event loop, acquired and released together: busy executors share round trips to Redis."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sytq.batcher import Batcher
from sytq.broker.limiter import Permit
from sytq.broker.limiters import Limiters

#: Bounds one script call.
_MAX_BATCH = 50

_Request = tuple[bool, Permit]  # whether it is an acquisition


class PermitBatcher:
    """`Limiters` for the tasks of one event loop."""

    def __init__(self, limiters: Limiters) -> None:
        self._limiters = limiters
        # Releases first, to make room; then the oldest task, as in the wait queue.
        self._batcher = Batcher(
            self._process, name="permits", max_size=_MAX_BATCH, key=lambda request: (request[0], request[1].created)
        )
        # A thread of its own, as others may all wait for a database; one, so that a release follows its acquisition.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="permits")

    async def acquire(self, permit: Permit) -> None:
        """Acquire a permit, or raise what `Limiters.acquire_all` returns.

        A caller cancelled before its turn acquires nothing.
        """
        await self._batcher.add((True, permit))

    def release(self, permit: Permit) -> asyncio.Future[None]:
        """Release a permit, whether or not the caller waits for it."""
        return self._batcher.add((False, permit))

    async def _process(self, requests: list[_Request]) -> list[Exception | None]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, requests)

    def _call(self, requests: list[_Request]) -> list[Exception | None]:
        released = [permit for acquires, permit in requests if not acquires]
        acquired = [permit for acquires, permit in requests if acquires]
        self._limiters.release_all(released)
        return [None] * len(released) + self._limiters.acquire_all(acquired)
