"""Gates: what no passage does by itself.

Gives up the places of dead workers, calls those who wait when time alone makes room (a window, a pause, a circuit
breaker), and forgets idle gates. One worker at a time does it, and nothing breaks when two do.
"""

from __future__ import annotations

from dramatiq import Broker

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.limiter import limiter_keys
from sytq.worker.loops.loop import LeasedLoop

#: Bounds one script call.
_MOST = 20
_INTERVAL = 0.5


class LimiterLoop(LeasedLoop):
    """See the module."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, broker: Broker, liveness: float) -> None:
        super().__init__("gates", redis, keys, holder)
        self._broker = broker
        self._liveness_ms = int(liveness * 1000)

    def work(self) -> float:
        queues = list(self._broker.queues)
        names = [*limiter_keys(self.keys), *map(self.keys.delayed, queues)]
        looked_at, wait = self.redis.call("limiter_tend", names, [self._liveness_ms, _MOST, *queues])
        if looked_at == _MOST:
            return 0.0
        return min(max(wait, 0) / 1000, _INTERVAL) if wait >= 0 else _INTERVAL
