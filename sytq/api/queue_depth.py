"""The limit on waiting tasks of a queue (`queues.<name>.max_waiting`): a submission beyond it is refused."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping

import falcon
import structlog

from sytq.api.threads import Threads
from sytq.broker.inspection import Inspection
from sytq.errors import Overloaded, RedisUnavailable
from sytq.ledger.ledger import NewTask
from sytq.observability.outages import REDIS

log = structlog.get_logger(__name__)

#: Seconds for which a count is used; tasks that this process accepts meanwhile are added.
_COUNTED_FOR = 1.0
#: Seconds that Redis has for a count.
_REDIS_TIMEOUT = 1.0
_RETRY_AFTER = 5


class QueueDepthLimit:
    """Belongs to one event loop.

    Tasks that other processes accept within a second are not counted, so they may exceed a limit. While Redis is
    unavailable everything is accepted.
    """

    def __init__(self, limits: Mapping[str, int], inspection: Inspection, threads: Threads) -> None:
        self._limits = limits
        self._inspection = inspection
        self._threads = threads
        self._waiting: dict[str, float] = {}  # -inf while Redis is unavailable
        self._counted: dict[str, float] = {}
        self._counting: dict[str, asyncio.Task[None]] = {}

    async def check(self, tasks: Iterable[NewTask]) -> None:
        """Count the tasks as waiting in their queues. Raises HTTPServiceUnavailable for a full queue."""
        if not self._limits:
            return
        asked = Counter(task.queue for task in tasks if task.queue in self._limits)
        for queue in asked:
            await self._count(queue)
        for queue, count in asked.items():
            waiting, limit = self._waiting[queue], self._limits[queue]
            if waiting + count > limit:
                raise falcon.HTTPServiceUnavailable(
                    description=f"queue '{queue}' is full: {waiting} of {limit} tasks wait; nothing was accepted",
                    retry_after=_RETRY_AFTER,
                )
        for queue, count in asked.items():
            self._waiting[queue] += count

    async def _count(self, queue: str) -> None:
        if time.monotonic() < self._counted.get(queue, 0.0) + _COUNTED_FOR:
            return
        counting = self._counting.get(queue)
        if counting is None:
            counting = self._counting[queue] = asyncio.create_task(self._ask(queue))
            counting.add_done_callback(lambda _: self._counting.pop(queue, None))
        await asyncio.shield(counting)

    async def _ask(self, queue: str) -> None:
        try:
            count = await asyncio.wait_for(self._threads.run(self._inspection.backlog, queue), _REDIS_TIMEOUT)
        except (RedisUnavailable, TimeoutError, Overloaded) as error:
            REDIS.failed(log, "queue depth not limited while Redis is unavailable", error, "warning", queue=queue)
            self._waiting[queue] = -math.inf
        else:
            self._waiting[queue] = count
        self._counted[queue] = time.monotonic()
