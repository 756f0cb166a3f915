"""The consumer of one queue: acquires slots, fetches tasks in priority order and passes them to the event loop.

Never raises on a Redis fault: it waits itself.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog
from dramatiq import Actor, Consumer, Message
from dramatiq.errors import DecodeError

from sytq.broker.connection import NoGroup
from sytq.broker.delivery import Delivery, Outcome
from sytq.broker.handover import QueueLimit
from sytq.broker.keys import GROUP
from sytq.broker.limiter import Permit
from sytq.broker.limiters import state_keys
from sytq.broker.priorities import Turn
from sytq.errors import RedisUnavailable
from sytq.executor import measure
from sytq.executor.executor import Executor
from sytq.executor.slots import SlotKind
from sytq.executor.watchdog import turn
from sytq.observability.outages import log_failure

log = structlog.get_logger(__name__)

#: Longest wait for new tasks, and the period at which dead workers' tasks are reclaimed, in seconds.
_TICK = 0.5
_TICK_MS = 500
#: Bounds one script call.
_MAX_TASKS = 100
#: Seconds until a task of a type unknown to this worker (a rolling deploy) is tried again.
_UNKNOWN_DELAY = 5.0
#: The types of the optional options of a message.
_OPTIONS = {"request_id": str | None, "traceparent": str | None, "retry_delay": int | float | None}


class StreamConsumer(Consumer):
    """One per queue, used by one thread. Dramatiq gets no message of it, and has none to acknowledge."""

    def __init__(self, executor: Executor, queue: str, actors: Mapping[str, Actor[Any, Any]]) -> None:
        self._executor = executor
        self._queue = queue
        self._actors = actors
        self._streams = executor.keys.streams(queue)
        self._limit = executor.limits.get(queue, QueueLimit())
        self._turn = Turn(executor.weights)
        self._swept = 0.0
        self._left = False  # dead workers may have more tasks than the last fetch took over
        self._pause = 0.1

    def __next__(self) -> None:
        turn()
        if not self._executor.stopping.is_set():
            if not self._executor.admitted.wait(_TICK):
                return
            if not self._executor.may_start():
                self._executor.stopping.wait(_TICK)
                return
            try:
                self._fill()
                self._pause = 0.1
            except NoGroup:
                self._make_groups()
            except RedisUnavailable as error:
                log_failure(log, "fetch failed: Redis unavailable", error, queue=self._queue)
                self._swept = 0.0  # the lost reply may have held tasks: reclaim them at once
                self._executor.stopping.wait(self._pause)
                self._pause = min(self._pause * 2, _TICK)
        else:
            time.sleep(0.05)  # Dramatiq keeps asking until its threads have ended

    def requeue(self, messages: object) -> None:
        """Dramatiq has no messages to return."""

    # -- fetching

    def _fill(self) -> None:
        kinds, types = self._needs()
        ahead = self._executor.event_loop.threads.ahead(types)
        slots = self._executor.slots.acquire(kinds, _MAX_TASKS, _TICK, ahead)
        if not slots:
            return
        used: collections.Counter[SlotKind] = collections.Counter()
        try:
            asked = time.monotonic()
            found, wakers, wait_ms = self._fetch(slots)
            deliveries = self.read(found)
            for delivery in deliveries:
                delivery.held_at = asked
                if delivery.permit is not None:
                    delivery.permit.asked = asked
                used[self._actors[delivery.type].options["slot"]] += 1
            begun = partial(self._executor.slots.passed, used["loop"]) if used["loop"] else None
            self._executor.event_loop.submit(deliveries, begun)
        finally:
            # A task whose type moved to another queue while it waited may need a kind of slot that this queue's types
            # do not use: that kind goes below zero.
            self._executor.slots.release_unused(kinds, slots, used)
        if not found and not self._left:
            # An entry added after the fetch ends the wait.
            names, ids = zip(*wakers, strict=True)
            self._executor.redis.ask("XREAD", "COUNT", 1, "BLOCK", max(wait_ms, 1), "STREAMS", *names, *ids)

    def _needs(self) -> tuple[set[SlotKind], list[str]]:
        """The kinds of slots of this queue's types, and the types that run on threads."""
        own = {name: actor.options["slot"] for name, actor in self._actors.items() if actor.queue_name == self._queue}
        return set(own.values()) or {"thread"}, [name for name, slot in own.items() if slot == "thread"]

    def _fetch(self, slots: int) -> tuple[list[tuple[Any, ...]], list[tuple[str, bytes]], int]:
        """Call fetch.lua: return tasks, or the streams to wait for and the longest wait in milliseconds."""
        executor, keys, limit = self._executor, self._executor.keys, self._limit
        wake_up = keys.queue_bell(self._queue)
        streams = [keys.stream(self._queue, priority) for priority in self._turn.order()]
        names = [keys.live, keys.events, keys.workers, keys.stats, keys.parked(self._queue)]
        names += [keys.rate(self._queue), wake_up, keys.epoch, keys.cancels, keys.called(self._queue)]
        names += [keys.crashes, keys.departed, keys.suspects(self._queue), keys.recorded]
        names += [keys.delayed(self._queue), keys.bodies(self._queue), keys.bell, *state_keys(keys)]
        first = len(names) + 1
        args: list[Any] = [GROUP, executor.name, slots, *limit.args]
        args += [int(executor.lease * 1000), executor.max_crashes, executor.recorded()]
        sweep = time.monotonic() - self._swept >= _TICK
        args += [1 if sweep else 2 if self._left else 0, executor.limiters.granting, executor.limited_types]
        if sweep:
            for position, stream in enumerate(streams, start=first):
                args += [b"%d:%s" % (position, entry) for entry in executor.tracked(stream)]
        found, left, *rest = executor.redis.call("fetch", names + streams, args)
        self._left = bool(left)
        if found == 2:
            raise RedisUnavailable("an older copy of Redis has taken its place")
        if sweep:
            self._swept = time.monotonic()
        if found:
            return [(streams[item[0] - first], *item[1:]) for item in rest], [], 0
        allowed_in, notified, *last_ids = rest
        wakers = list(zip(streams, last_ids, strict=True))
        if limit.running:
            wakers.append((wake_up, notified))
        return [], wakers, min(allowed_in, _TICK_MS) if allowed_in >= 0 else _TICK_MS

    def read(self, items: list[tuple[Any, ...]], *, unknown_delay: float = _UNKNOWN_DELAY) -> list[Delivery]:
        """Return the deliveries that can run here; others are postponed or become dead letters."""
        deliveries = []
        for stream, entry, task_id, body, attempts, max_attempts, token, *granted in items:
            delivery = Delivery(
                _decode(body, self._queue),
                stream=stream,
                entry=entry,
                body=body,
                attempts=attempts,
                max_attempts=max_attempts,
                token=int(token),
            )
            if granted and granted[0] and delivery.type:
                self._hold(delivery, *granted[0])
            self._executor.track(delivery)
            readable = delivery.type and delivery.id == task_id.decode(errors="replace")
            missing = self._missing(delivery)
            if readable and missing is None:
                deliveries.append(delivery)
                continue
            if readable:
                reason = f"no worker here knows {missing}"
                log.error("unknown task type: task postponed", task_id=delivery.id, reason=reason)
                delivery.outcome = Outcome("retry", delay=unknown_delay, consumes_attempt=False, error=reason)
            else:
                log.error("message moved to the dead letters", stream=stream, entry=entry.decode())
                delivery.id = task_id.decode(errors="replace")
                delivery.outcome = Outcome("unreadable", error="the message cannot be decoded")
            self._executor.event_loop.loop.call_soon_threadsafe(self._executor.acks.put, delivery)
        measure.waited(deliveries)
        return deliveries

    def _hold(self, delivery: Delivery, acquired_ms: bytes, awaited: bytes, cost: bytes, *limits: bytes) -> None:
        """Note the permit that a task was fetched with, and the limiter that it waited for."""
        texts = [each.decode() for each in limits]
        pairs = dict(zip(texts[::2], texts[1::2], strict=True))
        permit = Permit.fetched(delivery.id, delivery.token, delivery.created_ms, pairs, int(acquired_ms), int(cost))
        delivery.permit = permit
        if awaited:
            delivery.waits.fetched(awaited.decode())
        self._executor.limiters.hold(permit)

    def _missing(self, delivery: Delivery) -> str | None:
        """Return the type or version that this worker does not know but a later deployment may."""
        actor = self._actors.get(delivery.type)
        if actor is None:
            return f"the task type '{delivery.type}'"
        if delivery.version is not None and delivery.version > actor.options.get("version", delivery.version):
            return f"version {delivery.version} of the task type '{delivery.type}'"
        return None

    def _make_groups(self) -> None:
        try:
            for stream in self._streams:
                self._executor.redis.make_group(stream, GROUP)
        except RedisUnavailable as error:
            log_failure(log, "consumer groups not created: Redis unavailable", error, queue=self._queue)
            self._executor.stopping.wait(self._pause)


def _decode(body: bytes, queue: str) -> Message[Any]:
    try:
        message: Message[Any] = Message.decode(body)
        words = isinstance(message.message_id, str) and isinstance(message.actor_name, str)
        known = all(isinstance(message.options.get(name), kind) for name, kind in _OPTIONS.items())
        if words and known and isinstance(message.message_timestamp, int) and len(message.args) == 1:
            return message
    except (DecodeError, TypeError, AttributeError):
        pass  # the caller logs it, with stream and entry
    return Message(queue_name=queue, actor_name="", args=(None,), kwargs={}, options={}, message_id="")
