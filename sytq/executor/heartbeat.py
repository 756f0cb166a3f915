"""The heartbeat: one thread per worker process says that it lives.

Owns liveness and what a beat brings back: that Redis was emptied (then the running tasks are entered again as this
worker's own, so that nobody runs them a second time), and which of them are to be cancelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery
from sytq.broker.keys import Keys
from sytq.errors import RedisUnavailable
from sytq.executor.watchdog import turn

log = structlog.get_logger(__name__)


class Heartbeat(threading.Thread):
    """Beats every `interval` seconds until stopped; says whether Redis is `same` or was `emptied`."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        consumer: str,
        interval: float,
        liveness: float,
        *,
        held: Callable[[], list[Delivery]],
        emptied: Callable[[], None],
        same: Callable[[], None],
        cancel: Callable[[Delivery], None],
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._redis = redis
        self._keys = keys
        self._consumer = consumer
        self._interval = interval
        self._liveness_ms = int(liveness * 1000)
        self._held = held
        self._emptied = emptied
        self._same = same
        self._cancel = cancel
        self.epoch: bytes | None = None  # of the Redis that this worker knows
        self._beaten = float("-inf")
        self._ended = threading.Event()

    def beat(self, *, leaving: bool = False) -> None:
        """Beat once. Raises RedisUnavailable."""
        held = [] if leaving else self._held()
        names = [self._keys.workers, self._keys.epoch, self._keys.cancels]
        args = [self._consumer, int(leaving), self._liveness_ms, *(delivery.id for delivery in held)]
        epoch, _, asked = self._redis.call("heartbeat", names, args)
        if leaving:
            return
        for delivery, by in zip(held, asked, strict=True):
            if by and delivery.cancelled_by is None:
                delivery.cancelled_by = by.decode()
                self._cancel(delivery)
        if self.epoch is not None and epoch != self.epoch:
            log.warning("Redis was emptied: entering the running tasks again")
            self._emptied()
        else:
            self._same()
        self.epoch = epoch
        self._beaten = time.monotonic()

    @property
    def fresh(self) -> bool:
        """Whether the others take this worker for alive."""
        return time.monotonic() - self._beaten < self._liveness_ms / 1000

    def run(self) -> None:
        while not self._ended.is_set():
            turn()
            try:
                self.beat()
            except RedisUnavailable as error:
                log.warning("no heartbeat: Redis does not answer", error=str(error))
            self._ended.wait(self._interval)

    def stop(self) -> None:
        """Stop beating and say so, so that what is left here may be taken over at once."""
        self._ended.set()
        try:
            self.beat(leaving=True)
        except RedisUnavailable as error:
            log.warning("left without saying so: Redis does not answer", error=str(error))
