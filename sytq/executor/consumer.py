"""The consumer of one queue: fetches what there is room for, in priority order, and sleeps at the doorbell otherwise.

Owns the loop "room, fetch, hand over". Must not run a task nor decide an outcome; never raises on a Redis fault,
as it can wait better than its caller.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from typing import Any

import structlog
from dramatiq import Actor, Consumer, Message
from dramatiq.broker import MessageProxy
from dramatiq.errors import DecodeError

from sytq.broker.connection import NoGroup
from sytq.broker.delivery import Delivery, Outcome
from sytq.broker.keys import GROUP
from sytq.broker.priorities import Turn
from sytq.broker.queue_limits import QueueLimit
from sytq.errors import RedisUnavailable
from sytq.executor.executor import Executor
from sytq.executor.slots import SlotKind
from sytq.executor.watchdog import turn

log = structlog.get_logger(__name__)

#: Longest sleep at the doorbell, and the period at which the tasks of dead workers are looked for.
_TICK = 0.5
_TICK_MS = 500
#: Most tasks of one fetch: bounds what a script does in one go.
_MOST = 100
#: A type without a bound of attempts is dead after this many worker deaths in a row.
_MAX_DEATHS = 5
#: How long a task of a type that this worker does not know (a rolling deploy) waits before it is tried again.
_UNKNOWN_DELAY = 5.0
#: What the options of a message are, where they are there.
_OPTIONS = {"request_id": str, "traceparent": str, "retry_delay": int | float}


class StreamConsumer(Consumer):
    """See the module. One per queue, used by one thread; `ack` and `nack` may come from any."""

    def __init__(self, worker: Executor, queue: str, actors: Mapping[str, Actor[Any, Any]]) -> None:
        self._worker = worker
        self._queue = queue
        self._actors = actors
        self._streams = worker.keys.streams(queue)
        self._buffer: collections.deque[Delivery] = collections.deque()
        self._limit = worker.limits.get(queue, QueueLimit())
        self._turn = Turn(worker.weights)
        self._swept = 0.0
        self._pause = 0.1

    def __next__(self) -> MessageProxy | None:
        turn()
        if not self._buffer and not self._worker.stopping.is_set():
            try:
                self._fill()
                self._pause = 0.1
            except NoGroup:
                self._make_groups()
            except RedisUnavailable as error:
                log.warning("fetch waits for Redis", queue=self._queue, error=str(error))
                self._swept = 0.0  # the lost reply may have held tasks: look for them at once
                self._worker.stopping.wait(self._pause)
                self._pause = min(self._pause * 2, _TICK)
        if self._buffer:
            return self._buffer.popleft()
        if self._worker.stopping.is_set():
            time.sleep(0.05)  # Dramatiq asks on until its threads have ended
        return None

    def ack(self, message: MessageProxy) -> None:
        assert isinstance(message, Delivery)
        self._worker.room.give("thread", 1)
        self._worker.acks.put(message)

    nack = ack  # the delivery carries its outcome

    def requeue(self, messages: Any) -> None:
        """Hand back what was fetched and not started; it used no attempt."""
        for message in messages:
            message.outcome = Outcome("return", counts=False)
            self.ack(message)

    def close(self) -> None:
        """Hand back what Dramatiq did not come to ask for."""
        self.requeue(self._buffer)
        self._buffer.clear()

    # -- fetching

    def _fill(self) -> None:
        lanes = self._lanes()
        room = self._worker.room.take(lanes, _MOST, timeout=_TICK)
        if not room:
            return
        used: collections.Counter[SlotKind] = collections.Counter()
        try:
            found, doors, patience = self._fetch(room)
            for delivery in self._read(found):
                runner = self._actors[delivery.type].options.get("runner")
                used["loop" if runner else "thread"] += 1
                if runner:
                    self._worker.lane.submit(delivery, runner)
                else:
                    self._buffer.append(delivery)
        finally:
            # A task may be of the lane that its queue's own types do not use (its type moved to another queue while
            # it waited): then that lane lends a place.
            for lane in lanes | used.keys():
                self._worker.room.give(lane, (room if lane in lanes else 0) - used[lane])
        if not found:
            # Woken by whatever is added behind what the fetch has seen.
            names, ids = zip(*doors, strict=True)
            self._worker.redis.ask("XREAD", "COUNT", 1, "BLOCK", max(patience, 1), "STREAMS", *names, *ids)

    def _lanes(self) -> set[SlotKind]:
        lanes: set[SlotKind] = {
            "loop" if actor.options.get("runner") else "thread"
            for actor in self._actors.values()
            if actor.queue_name == self._queue
        }
        return lanes or {"thread"}

    def _fetch(self, room: int) -> tuple[list[tuple[Any, ...]], list[tuple[str, bytes]], int]:
        """One call of fetch.lua: the tasks taken, or what to sleep on and for how many milliseconds at most."""
        worker, keys, limit = self._worker, self._worker.keys, self._limit
        bell = keys.queue_bell(self._queue)
        streams = [keys.stream(self._queue, priority) for priority in self._turn.order()]
        names = [keys.live, keys.events, keys.workers, keys.stats, keys.paused, keys.parked(self._queue)]
        names += [keys.rate(self._queue), bell, keys.epoch, keys.cancels, keys.called(self._queue)]
        first = len(names) + 1
        args: list[Any] = [GROUP, worker.name, room, limit.running, limit.starts, int(limit.window * 1000)]
        args += [int(worker.liveness * 1000), _MAX_DEATHS]
        sweep = time.monotonic() - self._swept >= _TICK
        args.append(int(sweep))
        if sweep:
            for position, stream in enumerate(streams, start=first):
                args += [b"%d:%s" % (position, entry) for entry in worker.held(stream)]
        found, *rest = worker.redis.call("fetch", names + streams, args)
        if sweep:
            self._swept = time.monotonic()
        if found:
            return [(streams[item[0] - first], *item[1:]) for item in rest], [], 0
        allowed_in, heard, *last_ids = rest
        doors = list(zip(streams, last_ids, strict=True))
        if limit.running:
            doors.append((bell, heard))
        return [], doors, min(allowed_in, _TICK_MS) if allowed_in >= 0 else _TICK_MS

    def _read(self, items: list[tuple[Any, ...]]) -> list[Delivery]:
        """The deliveries that can run here; the others are set aside without disturbing them."""
        deliveries = []
        for stream, entry, task_id, body, attempts, max_attempts, token in items:
            delivery = Delivery(
                _decode(body, self._queue),
                stream=stream,
                entry=entry,
                body=body,
                attempts=attempts,
                max_attempts=max_attempts,
                token=int(token),
            )
            self._worker.hold(delivery)
            readable = delivery.type and delivery.id == task_id.decode(errors="replace")
            missing = self._missing(delivery)
            if readable and missing is None:
                deliveries.append(delivery)
                continue
            if readable:
                reason = f"no worker here knows {missing}"
                log.error("unknown task type: trying again later", task_id=delivery.id, reason=reason)
                delivery.outcome = Outcome("retry", delay=_UNKNOWN_DELAY, counts=False, error=reason)
            else:
                log.error("unreadable message set aside", stream=stream, entry=entry.decode())
                delivery.id = task_id.decode(errors="replace")
                delivery.outcome = Outcome("unreadable", error="the message cannot be decoded")
            self._worker.acks.put(delivery)
        return deliveries

    def _missing(self, delivery: Delivery) -> str | None:
        """What of a delivery only a worker of a later deployment may know."""
        actor = self._actors.get(delivery.type)
        if actor is None:
            return f"the task type '{delivery.type}'"
        if delivery.version is not None and delivery.version > actor.options.get("version", delivery.version):
            return f"version {delivery.version} of the task type '{delivery.type}'"
        return None

    def _make_groups(self) -> None:
        try:
            for stream in self._streams:
                self._worker.redis.make_group(stream, GROUP)
        except RedisUnavailable as error:
            log.warning("cannot prepare the queue yet", queue=self._queue, error=str(error))
            self._worker.stopping.wait(self._pause)


def _decode(body: bytes, queue: str) -> Message[Any]:
    try:
        message: Message[Any] = Message.decode(body)
        words = isinstance(message.message_id, str) and isinstance(message.actor_name, str)
        known = all(isinstance(message.options.get(name), kind | None) for name, kind in _OPTIONS.items())
        if words and known and isinstance(message.message_timestamp, int) and len(message.args) == 1:
            return message
    except (DecodeError, TypeError, AttributeError):
        pass  # shown by the caller, with where it was found
    return Message(queue_name=queue, actor_name="", args=(None,), kwargs={}, options={}, message_id="")
