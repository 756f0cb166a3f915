"""Quotas of a caller: requests in a window, tasks in a day.

Responses have the RateLimit fields of draft-ietf-httpapi-ratelimit-headers-10. Without Redis each process counts alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import falcon.asgi
import structlog

from sytq import clock
from sytq.api.caller import Caller
from sytq.api.threads import Threads
from sytq.batcher import Batcher
from sytq.broker.quotas import QuotaRequest, Quotas, QuotaUse
from sytq.errors import Overloaded, RedisUnavailable
from sytq.observability.outages import REDIS

log = structlog.get_logger(__name__)

_DAY = 86_400
#: Seconds that Redis has for an answer, and for which it is not asked after it gave none.
_REDIS_TIMEOUT, _REDIS_PAUSE = 0.5, 5.0
_MAX_COUNTED_HERE = 10_000


class Quota:
    """Belongs to one event loop."""

    def __init__(self, quotas: Quotas, threads: Threads) -> None:
        self._batcher = Batcher(_Counter(quotas, threads).count, name="requests")

    async def request(self, req: falcon.asgi.Request, caller: Caller) -> None:
        """Count one request. Raises HTTPTooManyRequests."""
        if caller.rate is not None:
            quota, seconds = caller.rate
            await self._count(req, "requests", seconds, QuotaRequest(f"rate:{caller.key_id}", quota, seconds * 1000))

    async def tasks(self, req: falcon.asgi.Request, count: int) -> None:
        """Count tasks of the request's caller; a negative count gives them back. Raises HTTPTooManyRequests."""
        caller: Caller = req.context.caller
        if caller.daily_tasks is not None:
            left = _DAY - int(clock.now()) % _DAY  # a day of UTC
            wanted = QuotaRequest(f"day:{caller.key_id}", caller.daily_tasks, left * 1000, count)
            await self._count(req, "tasks", _DAY, wanted)

    async def _count(self, req: falcon.asgi.Request, policy: str, seconds: int, wanted: QuotaRequest) -> None:
        use = await self._batcher.add(wanted)
        reset = math.ceil(use.left_ms / 1000)
        remaining = max(0, wanted.quota - use.used)
        fields = f'"{policy}";q={wanted.quota};w={seconds}', f'"{policy}";r={remaining};t={reset}'
        limits = req.context.limits
        limits[policy] = fields
        policies, states = zip(*limits.values(), strict=True)
        req.context.headers |= {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
        if not use.fits:
            raise falcon.HTTPTooManyRequests(
                description=f"more than {wanted.quota} {policy} in {seconds} s; wait {reset} s", retry_after=reset
            )


class _Counter:
    """Counts in Redis while it answers, else in this process."""

    def __init__(self, quotas: Quotas, threads: Threads) -> None:
        self._quotas = quotas
        self._threads = threads
        self._resumes = 0.0
        self._here: dict[str, tuple[int, float]] = {}

    async def count(self, requests: Sequence[QuotaRequest]) -> list[QuotaUse]:
        if time.monotonic() >= self._resumes:
            try:
                return await asyncio.wait_for(self._threads.run(self._quotas.take, requests), _REDIS_TIMEOUT)
            except (RedisUnavailable, TimeoutError, Overloaded) as error:
                self._resumes = time.monotonic() + _REDIS_PAUSE
                REDIS.failed(log, "quotas counted by each process alone: Redis unavailable", error, "warning")
            except Exception:
                self._resumes = time.monotonic() + _REDIS_PAUSE
                log.exception("quotas counted by each process alone")
        return [self._count_here(wanted) for wanted in requests]

    def _count_here(self, wanted: QuotaRequest) -> QuotaUse:
        now = time.monotonic()
        used, ends = self._here.get(wanted.name, (0, 0.0))
        if ends <= now:
            used, ends = 0, now + wanted.window_ms / 1000
        fits = wanted.count <= 0 or used + wanted.count <= wanted.quota
        if fits:
            used = max(0, used + wanted.count)
        if len(self._here) >= _MAX_COUNTED_HERE:
            self._here.clear()
        self._here[wanted.name] = used, ends
        return QuotaUse(fits, used, math.ceil((ends - now) * 1000))
