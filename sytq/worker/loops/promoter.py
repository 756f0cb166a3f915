"""The promoter: moves delayed tasks into their stream when they are due.

Every worker runs it. It sleeps until the next task is due or the bell rings for an earlier task, so a million delayed
tasks cost nothing.
"""

from __future__ import annotations

from dramatiq import Broker

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.worker.loops.loop import Loop

#: Bounds one script call.
_MOST = 100
_TICK_MS = 500


class Promoter(Loop):
    def __init__(self, redis: Redis, keys: Keys, broker: Broker) -> None:
        super().__init__("promote")
        self._redis = redis
        self._keys = keys
        self._broker = broker

    def step(self) -> float:
        wait, heard = _TICK_MS, None
        # Also queues that no task type of this worker uses (any more): tasks may wait there.
        for name in self._redis.ask("SMEMBERS", self._keys.queues):
            self._broker.declare_queue(name.decode())
        for queue in sorted(self._broker.queues):
            moved, due, bell = self._promote(queue)
            heard = heard or bell  # the first: a bell for a queue already promoted must end the wait
            while moved == _MOST:
                moved, due, _ = self._promote(queue)
            if due >= 0:
                wait = min(wait, due)
        if wait > 0 and heard:
            self._redis.ask("XREAD", "BLOCK", wait, "STREAMS", self._keys.bell, heard)
        return 0.0

    def _promote(self, queue: str) -> tuple[int, int, bytes]:
        keys = self._keys
        names = [keys.live, keys.delayed(queue), keys.bodies(queue), keys.bell, *keys.streams(queue)]
        moved, due, bell = self._redis.call("promote", names, [_MOST])
        return moved, due, bell
