"""Publishing: what this process has measured is added to the numbers of all processes, in Redis.

Owns the pace. Every process that measures runs it, API and worker; nothing is lost while Redis is away, and what a
killed process had not published yet (seconds) is.
"""

from __future__ import annotations

import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.errors import RedisUnavailable
from sytq.observability import metrics as meter
from sytq.worker.loops.loop import Loop

log = structlog.get_logger(__name__)

_INTERVAL = 2.0
#: Bounds one script call, and the hash: some thousand series of all metrics together.
_BATCH = 500
_MOST_FIELDS = 50_000


class Publisher(Loop):
    """See the module."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        super().__init__("publish")
        self._redis = redis
        self._keys = keys

    def step(self) -> float:
        left = meter.take()
        try:
            while left:
                batch = dict(list(left.items())[:_BATCH])
                pairs = [part for field, amount in batch.items() for part in (field, repr(amount))]
                self._redis.call("count", [self._keys.metrics], [_MOST_FIELDS, *pairs])
                for field in batch:
                    del left[field]
        finally:
            meter.put_back(left)
        return _INTERVAL

    def run(self) -> None:
        super().run()
        try:
            self.step()
        except RedisUnavailable as error:
            log.debug("the last measurements are lost", error=str(error))
