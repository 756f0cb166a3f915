"""The heartbeat: one thread per worker process renews its lease.

Each beat carries the worker's card when it has changed. The answer tells which running tasks to cancel, and whether
Redis was emptied: then this worker registers its running tasks again, so that no other worker starts them. Now and then
the thread checks the rights of the Redis user.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from sytq import clock
from sytq.broker.connection import Redis
from sytq.errors import RedisRefused, RedisUnavailable
from sytq.executor.watchdog import turn
from sytq.observability.outages import log_failure

if TYPE_CHECKING:
    from sytq.executor.executor import Executor

log = structlog.get_logger(__name__)

#: Beats after which an unchanged card is sent again.
_CARD_AGAIN = 30
#: Seconds between two checks of the rights; while one is missing they are checked with each beat.
_CHECK = 10.0


class Heartbeat(threading.Thread):
    """Beats every `interval` seconds until stopped; now and then it calls `check`, which raises RedisRefused."""

    def __init__(self, executor: Executor, redis: Redis, interval: float, check: Callable[[], None]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._executor = executor
        self._redis = redis
        self._interval = interval
        self._lease_ms = int(executor.lease * 1000)
        self._check = check
        self._granted = False  # every right, at the last check
        self._checked = float("-inf")
        self.card: Callable[[], str] = str  # what this worker says of itself, as JSON; empty for nothing
        self._card, self._card_age = "", 0
        self.epoch: bytes | None = None  # when Redis was first seen, as this worker knows it
        self._beaten = float("-inf")  # when the latest successful beat was sent
        self._valid_since = float("-inf")
        self._ended = threading.Event()

    def beat(self, *, leaving: bool = False) -> None:
        """Beat once. Raises RedisUnavailable."""
        executor, keys = self._executor, self._executor.keys
        running = [] if leaving else executor.deliveries()
        names = [keys.workers, keys.epoch, keys.cancels, keys.cards, keys.departed, keys.crashes]
        card = "" if leaving else self.card()
        new = card if card != self._card or self._card_age >= _CARD_AGAIN else ""
        stage = 1 if leaving else 2 if executor.leaving else 0
        args = [executor.name, stage, self._lease_ms, new, *(delivery.id for delivery in running)]
        sent = time.monotonic()
        epoch, now, asked = self._redis.call("heartbeat", names, args)
        clock.heard("redis", int(now) / 1000, sent)
        if leaving:
            return
        self._card, self._card_age = card, 0 if new else self._card_age + 1
        for delivery, by in zip(running, asked, strict=True):
            if by and delivery.cancelled_by is None:
                delivery.cancelled_by = by.decode()
                executor.event_loop.cancel(delivery)
        is_late = sent - self._beaten >= self._lease_ms / 1000
        if is_late and self.epoch is not None:  # other workers may have taken over tasks and permits
            executor.recount()
        if self.epoch is not None and epoch != self.epoch:
            self._card = ""
            executor.reregister()
            log.warning("Redis was emptied: running tasks registered again", tasks=len(running))
        else:
            executor.acks.forget()
        if is_late or epoch != self.epoch:
            self._valid_since = sent
        self.epoch = epoch
        self._beaten = sent

    def valid_since(self) -> float:
        """Since when (of `time.monotonic`) the lease is valid without a gap; infinity while it may have expired.

        An attempt that held its task at any moment since then holds it still.
        """
        return self._valid_since if time.monotonic() - self._beaten < self._lease_ms / 1000 else math.inf

    @property
    def fresh(self) -> bool:
        """Whether the lease is valid and no right is missing."""
        return self._granted and self.valid_since() < math.inf

    def run(self) -> None:
        while not self._ended.is_set():
            turn()
            try:
                self.beat()
            except RedisUnavailable as error:
                log_failure(log, "heartbeat failed: Redis unavailable", error)
                check = isinstance(error, RedisRefused)
            else:
                check = not self._granted or time.monotonic() - self._checked > _CHECK
            if check:
                self._check_rights()
            self._ended.wait(self._interval)

    def _check_rights(self) -> None:
        self._checked = time.monotonic()
        try:
            self._check()
            self._granted = True
        except RedisRefused as error:
            self._granted = False
            log_failure(log, "worker not ready", error, "error")
        except RedisUnavailable as error:
            log_failure(log, "rights not checked: Redis unavailable", error)

    def stop(self) -> None:
        """Stop beating and give up the lease, so that others may reclaim the remaining tasks at once."""
        self._ended.set()
        try:
            self.beat(leaving=True)
        except RedisUnavailable as error:
            log.warning("lease left to expire: Redis unavailable", error=str(error))
