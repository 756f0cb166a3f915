"""Whether an attempt holds its task: what this worker's heartbeat knows, and what Redis says after a gap."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sytq.broker.delivery import Delivery
from sytq.errors import Lost, RedisUnavailable

if TYPE_CHECKING:
    from sytq.executor.attempt import Services

T = TypeVar("T")

#: Seconds between two looks at a lease that is not valid.
_PAUSE = 0.1


class Lease:
    """Of one attempt."""

    def __init__(self, services: Services, delivery: Delivery) -> None:
        self._services = services
        self._delivery = delivery

    async def ask_redis(self, function: Callable[..., T], *args: Any) -> T:
        """Call Redis on a thread, and wait for at most a third of the lease. Raises RedisUnavailable."""
        seconds = self._services.settings.worker.redis_timeout
        call = asyncio.get_running_loop().run_in_executor(self._services.redis_threads, function, *args)
        try:
            await asyncio.wait((call,), timeout=seconds)
            if not call.done():
                raise RedisUnavailable(f"Redis does not answer within {seconds:.1f} s")
            return call.result()
        finally:
            call.cancel()

    async def verify(self) -> None:
        """Return once it is known that the attempt holds its task. Raises Lost, and RedisUnavailable (no attempt)."""
        delivery, valid_since = self._delivery, self._services.valid_since
        deadline = time.monotonic() + self._services.settings.worker.liveness
        problem = "the lease of this worker is not renewed"
        while (since := valid_since()) > delivery.held_at:
            if since < math.inf:  # renewed after it had expired: another attempt may have begun meanwhile
                try:
                    if not await self.ask_redis(self._services.operations.confirm, delivery):
                        raise self.lost()
                    continue
                except RedisUnavailable as error:
                    problem = str(error)
            if time.monotonic() > deadline:
                raise RedisUnavailable(f"not known whether this attempt still holds its task: {problem}")
            await asyncio.sleep(_PAUSE)

    def lost(self) -> Lost:
        return Lost(f"start {self._delivery.token} of task {self._delivery.id} no longer holds it")
