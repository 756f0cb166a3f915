"""The executor of a worker process: its name, the tracked deliveries, and the start and end of its threads."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import structlog
from dramatiq import Broker

from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery
from sytq.broker.handover import Handover, QueueLimit
from sytq.broker.keys import GROUP, Keys
from sytq.broker.limiter import Limiter, configured, settings_of
from sytq.broker.limiters import Limiters
from sytq.broker.rights import check_rights
from sytq.config import Settings
from sytq.executor.acks import Acks
from sytq.executor.event_loop import EventLoop
from sytq.executor.heartbeat import Heartbeat
from sytq.executor.hooks import Hooks
from sytq.executor.slots import Slots
from sytq.executor.watchdog import Watchdog

log = structlog.get_logger(__name__)

#: Seconds that the last outcomes may take to reach Redis at the stop.
_FLUSH = 10.0
#: A thread without progress for this long (seconds) is lost. Every loop turns within seconds, also while Redis or the
#: database is unavailable: their timeouts are 5 s each.
_STALLED = 60.0


class Executor:
    """The event loop, slots and service threads of one process."""

    def __init__(
        self,
        broker: Broker,
        redis: Redis,
        heartbeat_redis: Redis,
        task_redis: Redis,
        keys: Keys,
        settings: Settings,
        hooks: Hooks,
        name: str = "",
    ) -> None:
        self.name = name or f"{socket.gethostname()[:40]}-{os.getpid()}-{os.urandom(3).hex()}"
        self._broker = broker
        self.redis = redis
        self.keys = keys
        self.lease = settings.worker.liveness
        self.max_crashes = settings.worker.max_crashes
        self.weights = settings.worker.priority_weights
        self.limits = {
            name: QueueLimit(queue.limit or 0, *(queue.rate or (0, 60.0)))
            for name, queue in settings.queue_limits.items()
        }
        types = {
            name: settings_of(configured(Limiter(f"type:{name}"), settings.limiters)) for name in settings.limited_types
        }
        self.limited_types = json.dumps(types) if types else ""
        self.stopping = threading.Event()
        self.admitted = threading.Event()  # whether consumers may fetch
        self.admitted.set()
        self.may_start: Callable[[], bool] = lambda: True  # whether the service is not held; the worker sets it
        self.recorded: Callable[[], int] = lambda: 0  # the position that Redis had at the last look (sytq.service.hold)
        self.slots = Slots(settings.max_running)
        limited = {queue for queue, limit in self.limits.items() if limit.running}
        handover = Handover(keys, broker.queues, self.limits)
        self.limiters = Limiters(task_redis, keys, self.lease, handover, lambda: self.heartbeat.epoch)
        self.event_loop = EventLoop(broker, hooks, self.stopping, self._finished)
        self.acks = Acks(self.event_loop.loop, redis, keys, self.name, limited, self.limiters, self._acked)
        check = partial(check_rights, heartbeat_redis, keys, settings.stream_keys)
        self.heartbeat = Heartbeat(self, heartbeat_redis, settings.worker.heartbeat, check)
        self._watchdog: Watchdog | None = None
        self._tracked: dict[str, dict[bytes, Delivery]] = {}
        self._lock = threading.Lock()

    def start(self, *, threads: int, loop_slots: int) -> None:
        """Open the slots and start the threads."""
        self.event_loop.threads.start(threads, self._broker)
        self.slots.open(threads=threads, loop_slots=loop_slots)
        for thread in (self.heartbeat, self.event_loop):
            thread.start()

    def watch(
        self, others: Callable[[], Iterable[threading.Thread]], healthy: Callable[[], None], shutdown_timeout: float
    ) -> Watchdog:
        """Start the watchdog over these threads and `others()`; it calls `healthy` while it finds nothing."""
        stalled = max(_STALLED, 15 * self.lease)
        watchdog = Watchdog(self, others, healthy, shutdown_timeout=shutdown_timeout + _FLUSH, stalled=stalled)
        watchdog.start()
        self._watchdog = watchdog
        return watchdog

    def stop(self, timeout: float) -> None:
        """End the tasks (waiting up to `timeout` seconds), write the last outcomes and give up the lease."""
        self.event_loop.drain(timeout)
        if not self.acks.stop(_FLUSH):
            log.error("outcomes not written: their tasks run again elsewhere")
        self.heartbeat.stop()
        self.event_loop.stop()

    @property
    def ready(self) -> bool:
        """Whether tasks are fetched, and heartbeats taken."""
        return self.admitted.is_set() and self.heartbeat.fresh

    def track(self, delivery: Delivery) -> None:
        """Keep a delivery until its outcome is written."""
        with self._lock:
            self._tracked.setdefault(delivery.stream, {})[delivery.entry] = delivery

    def tracked(self, stream: str) -> list[bytes]:
        """Return the tracked entries of a stream and their task ids (a task's entry may change)."""
        with self._lock:
            return [part for entry, one in self._tracked.get(stream, {}).items() for part in (entry, one.id.encode())]

    @property
    def leaving(self) -> bool:
        """Whether this worker stops, but not because its watchdog says so: then it counts as dead."""
        return self.stopping.is_set() and not (self._watchdog and self._watchdog.terminated)

    @property
    def idle(self) -> bool:
        """Whether Redis has the outcome of every task that this worker had."""
        return not self.deliveries()

    def find(self, task_id: str) -> Delivery | None:
        return next((delivery for delivery in self.deliveries() if delivery.id == task_id), None)

    def _finished(self, delivery: Delivery) -> None:
        self.slots.release(self._broker.actors[delivery.type].options["slot"])
        delivery.passing = True
        self.acks.put(delivery)

    def _acked(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                tracked = self._tracked.get(delivery.stream, {})
                if tracked.get(delivery.entry) is delivery:  # this worker may have a later attempt of the same entry
                    del tracked[delivery.entry]
        self.slots.passed(sum(delivery.passing for delivery in deliveries))

    def deliveries(self) -> list[Delivery]:
        with self._lock:
            return [delivery for entries in self._tracked.values() for delivery in entries.values()]

    def recount(self) -> None:
        """Have the limiters count the calls under way again; give up those of tasks that other workers have."""
        for task_id in self.limiters.recount():
            log.warning("lease expired: task taken over by another worker", task_id=task_id)
            if delivery := self.find(task_id):
                delivery.lost = True
                self.event_loop.cancel(delivery)

    def reregister(self) -> None:
        """Enter the latest ends, the running tasks and their permits into an emptied Redis."""
        self.acks.repeat()
        for delivery in self.deliveries():
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
                    # Unless its outcome was written meanwhile: reregister.lua leaves that tombstone alone.
                    if self._tracked[delivery.stream].pop(delivery.entry, None):
                        delivery.entry = entry
                        self._tracked[delivery.stream][entry] = delivery
        self.limiters.reregister()
