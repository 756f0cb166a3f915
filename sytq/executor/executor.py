"""What one worker process shares among its consumers, threads and event loop.

Owns the running deliveries from fetch to acknowledgement, and the start and the orderly end of the process's
broker threads. Must not fetch (consumer.py) nor decide an outcome (middleware).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping

import structlog
from dramatiq import Broker

from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery, Outcome
from sytq.broker.keys import GROUP, Keys
from sytq.broker.limiter import Limiters
from sytq.broker.queue_limits import QueueLimit
from sytq.executor.acks import Acks
from sytq.executor.event_loop import EventLoop
from sytq.executor.heartbeat import Heartbeat
from sytq.executor.slots import Slots
from sytq.executor.watchdog import Watchdog

log = structlog.get_logger(__name__)

#: How long the last outcomes may take to reach Redis at the end.
_FLUSH = 10.0
#: A thread that has not gone round for this long is lost. Every loop turns within seconds, also while Redis or the
#: database is away: their time limits are 5 s each.
_STALLED = 60.0


class Executor:
    """See the module."""

    def __init__(
        self,
        broker: Broker,
        redis: Redis,
        keys: Keys,
        gates: Limiters,
        *,
        pulse: Redis,
        liveness: float,
        heartbeat: float,
        limits: Mapping[str, QueueLimit],
        weights: Mapping[str, int],
        threads: int,
        loop_places: int,
    ) -> None:
        self.name = f"{socket.gethostname()[:40]}-{os.getpid()}-{os.urandom(3).hex()}"
        self.redis = redis
        self.keys = keys
        self.liveness = liveness
        self.limits = limits
        self.weights = weights
        self.stopping = threading.Event()
        self.room = Slots(threads, loop_places)
        limited = {queue for queue, limit in limits.items() if limit.running}
        self.acks = Acks(redis, keys, self.name, limited, self._release)
        self.lane = EventLoop(broker, self._finished)
        self.heartbeat = Heartbeat(
            pulse,
            keys,
            self.name,
            heartbeat,
            liveness,
            held=self._deliveries,
            emptied=self._adopt,
            same=self.acks.forget,
            cancel=self.lane.cancel,
        )
        self._gates = gates
        self._gates.epoch = lambda: self.heartbeat.epoch
        self._held: dict[str, dict[bytes, Delivery]] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the threads."""
        for thread in (self.acks, self.heartbeat, self.lane):
            thread.start()

    def watch(
        self, others: Callable[[], Iterable[threading.Thread]], well: Callable[[], None], budget: float
    ) -> Watchdog:
        """Start the watchdog over these threads and `others()`; `well` is called each time that all go round, `budget`
        is how long an orderly end may take."""
        watchdog = Watchdog(
            self.lane,
            (self.acks, self.heartbeat, self.lane),
            others,
            self.find,
            well,
            budget=budget + _FLUSH,
            stalled=max(_STALLED, 15 * self.liveness),
        )
        watchdog.start()
        return watchdog

    def stop(self, timeout: float) -> None:
        """End the async tasks (waiting up to `timeout` seconds), write the last outcomes and leave."""
        self.lane.drain(timeout)
        self._hand_back()
        if not self.acks.stop(_FLUSH):
            log.error("outcomes left unwritten: their tasks run again elsewhere")
        self.heartbeat.stop()
        self.lane.stop()

    def hold(self, delivery: Delivery) -> None:
        """Remember a delivery until its outcome is written."""
        with self._lock:
            self._held.setdefault(delivery.stream, {})[delivery.entry] = delivery

    def held(self, stream: str) -> list[bytes]:
        """The entries of a stream that this process holds, and the ids of their tasks: an entry may be made anew."""
        with self._lock:
            return [part for entry, one in self._held.get(stream, {}).items() for part in (entry, one.id.encode())]

    def find(self, task_id: str) -> Delivery | None:
        """The held delivery of a task."""
        return next((delivery for delivery in self._deliveries() if delivery.id == task_id), None)

    def _hand_back(self) -> None:
        """Give up the plain tasks that did not end in time: their threads end with the process."""
        for delivery in self._deliveries():
            if delivery.outcome is None:
                delivery.outcome = Outcome("return", counts=False, error="the worker is stopping")
                self.acks.put(delivery)

    def _finished(self, delivery: Delivery) -> None:
        self.room.give("loop", 1)
        self.acks.put(delivery)

    def _release(self, delivery: Delivery) -> None:
        with self._lock:
            held = self._held.get(delivery.stream, {})
            if held.get(delivery.entry) is delivery:  # not the entry's later start, which may be ours too
                del held[delivery.entry]

    def _deliveries(self) -> list[Delivery]:
        with self._lock:
            return [delivery for entries in self._held.values() for delivery in entries.values()]

    def _adopt(self) -> None:
        """Tell a Redis that was emptied what ended and what runs here, as ours, with its passages through gates."""
        self.acks.repeat()
        for delivery in self._deliveries():
            priority = delivery.stream.rpartition(":")[2]
            entry = self.redis.call(
                "reregister",
                [self.keys.live, delivery.stream, self.keys.queues],
                [
                    *(GROUP, self.name, delivery.id, delivery.type, delivery.queue_name, priority),
                    *(delivery.attempts, delivery.max_attempts, delivery.token, delivery.body),
                ],
            )
            if entry:
                with self._lock:
                    # Unless its outcome was written meanwhile (a tombstone then, which reregister.lua leaves alone).
                    if self._held[delivery.stream].pop(delivery.entry, None):
                        delivery.entry = entry
                        self._held[delivery.stream][entry] = delivery
        self._gates.enter_again()
