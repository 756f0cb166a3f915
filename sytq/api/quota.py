"""What a caller may use: requests in a window, tasks in a day; and how both are told.

Owns the two policies, the RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10) and what happens without Redis:
each process counts alone then, and nobody is locked out. Must not know how a caller was recognized.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import falcon
import falcon.asgi
import structlog

from sytq.api.caller import Caller
from sytq.api.threads import Threads
from sytq.batcher import Batcher
from sytq.broker.quotas import QuotaRequest, Quotas, QuotaUse
from sytq.errors import Overloaded, RedisUnavailable

log = structlog.get_logger(__name__)

_DAY = 86_400
#: Seconds that Redis has for an answer, and for which it is not asked after it had none.
_PATIENCE, _PAUSE = 0.5, 5.0
_COUNTED_HERE = 10_000


class Quota:
    """Belongs to one event loop."""

    def __init__(self, quotas: Quotas, threads: Threads) -> None:
        self._batcher = Batcher(_Counter(quotas, threads).count, name="requests")

    async def request(self, req: falcon.asgi.Request, caller: Caller) -> None:
        """Count one request. Raises HTTPTooManyRequests."""
        if caller.rate is not None:
            quota, seconds = caller.rate
            await self._take(req, "requests", seconds, QuotaRequest(f"rate:{caller.key_id}", quota, seconds * 1000))

    async def tasks(self, req: falcon.asgi.Request, count: int) -> None:
        """Count tasks of the request's caller; a negative number gives them back. Raises HTTPTooManyRequests."""
        caller: Caller = req.context.caller
        if caller.daily_tasks is not None:
            left = _DAY - int(time.time()) % _DAY  # the day is UTC's
            take = QuotaRequest(f"day:{caller.key_id}", caller.daily_tasks, left * 1000, count)
            await self._take(req, "tasks", _DAY, take)

    async def _take(self, req: falcon.asgi.Request, policy: str, seconds: int, take: QuotaRequest) -> None:
        reading = await self._batcher.add(take)
        reset = math.ceil(reading.left_ms / 1000)
        remaining = max(0, take.quota - reading.used)
        told = f'"{policy}";q={take.quota};w={seconds}', f'"{policy}";r={remaining};t={reset}'
        limits = req.context.limits
        limits[policy] = told
        policies, states = zip(*limits.values(), strict=True)
        req.context.headers |= {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
        if not reading.fits:
            raise falcon.HTTPTooManyRequests(
                description=f"more than {take.quota} {policy} in {seconds} s; wait {reset} s", retry_after=reset
            )


class _Counter:
    """Counts in Redis while it answers, else in this process."""

    def __init__(self, quotas: Quotas, threads: Threads) -> None:
        self._quotas = quotas
        self._threads = threads
        self._resumes = 0.0
        self._here: dict[str, tuple[int, float]] = {}

    async def count(self, takes: Sequence[QuotaRequest]) -> list[QuotaUse]:
        if time.monotonic() >= self._resumes:
            try:
                return await asyncio.wait_for(self._threads.run(self._quotas.take, takes), _PATIENCE)
            except (RedisUnavailable, TimeoutError, Overloaded) as error:
                self._resumes = time.monotonic() + _PAUSE
                log.warning("allowances are counted by each process alone: Redis does not answer", error=str(error))
            except Exception:
                self._resumes = time.monotonic() + _PAUSE
                log.exception("allowances are counted by each process alone")
        return [self._count_here(take) for take in takes]

    def _count_here(self, take: QuotaRequest) -> QuotaUse:
        now = time.monotonic()
        used, ends = self._here.get(take.name, (0, 0.0))
        if ends <= now:
            used, ends = 0, now + take.window_ms / 1000
        fits = take.count <= 0 or used + take.count <= take.quota
        if fits:
            used = max(0, used + take.count)
        if len(self._here) >= _COUNTED_HERE:
            self._here.clear()
        self._here[take.name] = used, ends
        return QuotaUse(fits, used, math.ceil((ends - now) * 1000))
