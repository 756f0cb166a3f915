"""The limiters' loop: frees dead workers' permits, hands permits over to waiting tasks when a window, a pause or a
circuit breaker's timeout ends, and forgets idle limiters. One worker at a time runs it; two at once are harmless.

Each worker announces what its calls are made with, so that a pause for a refused key ends with that key.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from sytq.broker.connection import Redis
from sytq.broker.keys import GROUP, Keys
from sytq.broker.limiters import Limiters, limiter_keys
from sytq.worker.loops.loop import LeasedLoop

#: Limiters in one script call.
_MAX_BATCH = 20
_INTERVAL = 0.5
#: Seconds between two announcements; a quarter of how long one is believed.
_ANNOUNCED_EVERY = 2.0


class LimiterLoop(LeasedLoop):
    """Calls `limiter_tend` as often as limiters are due."""

    def __init__(
        self, redis: Redis, keys: Keys, holder: str, limiters: Limiters, configurations: Collection[str]
    ) -> None:
        super().__init__("gates", redis, keys, holder)  # the lease's name, shared with workers of 0.1
        self._limiters = limiters
        self._configurations = configurations
        self._announced = float("-inf")

    def step(self) -> float:
        if time.monotonic() - self._announced > _ANNOUNCED_EVERY:
            self._limiters.announce(self._configurations)
            self._announced = time.monotonic()
        return super().step()

    def work(self) -> float:
        keys, queues = self._limiters.handover.keys_and_args()
        args = [self._limiters.liveness_ms, _MAX_BATCH, GROUP, *queues]
        count, wait = self.redis.call("limiter_tend", [*limiter_keys(self.keys), *keys], args)
        if count == _MAX_BATCH:
            return 0.0
        return min(max(wait, 0) / 1000, _INTERVAL) if wait >= 0 else _INTERVAL
