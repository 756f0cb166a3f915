"""StreamsBroker: Dramatiq's broker interface on our streams.

Owns how tasks are entered and what Dramatiq asks of a broker. Which Redis change happens when is in the scripts,
what a worker process adds is in `worker.py`, what an outcome is in the middleware.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dramatiq
from dramatiq.broker import Consumer
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import Middleware

from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery
from sytq.broker.keys import Keys
from sytq.broker.limiter import Limiters
from sytq.broker.queue_limits import QueueLimit
from sytq.errors import InvalidInput
from sytq.executor.consumer import StreamConsumer
from sytq.executor.executor import Executor
from sytq.executor.permits import PermitBatcher
from sytq.states import NAME, PRIORITIES, WEIGHTS

#: How long after its call a task may be entered: half of what the marks of finished tasks stay for.
_LATEST_MS = 5_000


@dataclass(slots=True)
class Envelope:
    """A task as it is handed to Redis. `payload` is JSON text; `due_ms` 0 is now; `max_attempts` 0 is no bound."""

    id: str
    type: str
    queue: str
    priority: str
    payload: str
    created_ms: int
    due_ms: int = 0
    attempts: int = 0
    max_attempts: int = 0
    retry_delay: float | None = None  # seconds, in place of the type's
    token: int = 0  # of its latest start, which a new one must be above
    request_id: str | None = None
    traceparent: str | None = None
    version: int | None = None  # of the payload's form

    def message(self) -> str:
        """The Dramatiq message, as it stands in the stream."""
        # Put together as text: the payload is JSON already.
        more = ""
        if self.request_id is not None:
            more += f', "request_id": {json.dumps(self.request_id)}'
        if self.traceparent is not None:
            more += f', "traceparent": {json.dumps(self.traceparent)}'
        head = _head(self.queue, self.type, self.priority, self.retry_delay, self.version)
        tail = f'"message_id": {json.dumps(self.id)}, "message_timestamp": {self.created_ms}'
        return f'{head}{more}}}, "args": [{self.payload}], {tail}}}'


@lru_cache(maxsize=1000)
def _head(queue: str, type_name: str, priority: str, retry_delay: float | None, version: int | None) -> str:
    """What messages of one kind have in common: JSON that is open within `options`."""
    options: dict[str, Any] = {"priority": priority}
    if retry_delay is not None:
        options["retry_delay"] = retry_delay
    if version is not None:
        options["version"] = version
    head = {"queue_name": queue, "actor_name": type_name, "kwargs": {}, "options": options}
    return json.dumps(head)[:-2]


class StreamsBroker(dramatiq.Broker):
    """See the module. Nothing connects before the first use; nothing consumes before `start_worker`."""

    def __init__(
        self,
        redis: Redis,
        *,
        pulse: Redis | None = None,
        prefix: str = "sytq",
        liveness: float = 4.0,
        heartbeat: float = 1.0,
        limits: Mapping[str, QueueLimit] | None = None,
        weights: Mapping[str, int] = WEIGHTS,
        middleware: list[Middleware] | None = None,
    ) -> None:
        self.redis = redis
        self.pulse = pulse or redis  # a connection of its own for the heartbeat, with a shorter patience
        self.keys = Keys(prefix)
        self.liveness = liveness
        self.limits = dict(limits or {})
        self.weights = weights
        self._heartbeat = heartbeat
        super().__init__(middleware=middleware or [])
        self.gates = Limiters(redis, self.keys, liveness, self.queues)
        self.turnstile = PermitBatcher(self.gates)  # the way through them from the worker's event loop
        self.actor_options |= {"runner", "version"}  # an async actor's coroutine function (see Lane); its payload's

    # -- as Dramatiq wants it

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> Consumer:
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        return StreamConsumer(self.worker, queue_name, self.actors)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Carry a message that has no row in the ledger (`actor.send`): it runs, but leaves no history."""
        due = int(time.time() * 1000) + delay if delay else 0
        self.emit_before("enqueue", message, delay)
        self.dispatch(
            [
                Envelope(
                    id=message.message_id,
                    type=message.actor_name,
                    queue=message.queue_name,
                    priority=message.options.get("priority", "normal"),
                    payload=json.dumps(message.args[0] if message.args else None),
                    created_ms=message.message_timestamp,
                    due_ms=due,
                )
            ]
        )
        self.emit_after("enqueue", message, delay)
        return message

    def close(self) -> None:
        self.redis.close()

    # -- entering tasks

    def dispatch(self, envelopes: Sequence[Envelope], *, not_after_ms: int = 0) -> int:
        """Enter tasks that Redis does not know yet and return how many; repeating it is harmless.

        Nothing is entered later than `not_after_ms` by Redis' clock (0: some seconds from now), however long the
        network holds the call back: by then it may have been entered by the reconciler, have ended and been forgotten.
        Raises RedisUnavailable, and InvalidInput for a name that cannot be carried.
        """
        not_after_ms = not_after_ms or self.redis.now_ms() + _LATEST_MS
        entered = 0
        for start in range(0, len(envelopes), 200):
            # What most of them have in common is sent once.
            kinds: dict[tuple[str, str, str, int, int, int], int] = {}
            tasks: list[str | int] = []
            for one in envelopes[start : start + 200]:
                kind = (one.type, one.queue, one.priority, one.attempts, one.max_attempts, one.token)
                tasks += (kinds.setdefault(kind, len(kinds) + 1), one.id, one.due_ms, one.message())
            slots: dict[tuple[str, str], int] = {}
            args: list[str | int] = [not_after_ms, len(kinds)]
            for kind in kinds:
                type_name, queue, priority, *_ = kind
                check_names(type_name, queue, priority)
                args += (*kind, slots.setdefault((queue, priority), len(slots) + 1))
            names = [self.keys.live, self.keys.stats, self.keys.bell, self.keys.queues]
            for queue, priority in slots:
                names += [
                    self.keys.stream(queue, priority),
                    self.keys.delayed(queue),
                    self.keys.bodies(queue),
                ]
            entered += max(0, self.redis.call("dispatch", names, args + tasks))
        return entered

    # -- running tasks

    def touch(self, delivery: Delivery, progress: str) -> bool:
        """Show progress (JSON text); False when another start holds the task. Raises RedisUnavailable.

        Notices at once that the task is to be cancelled; without it the next heartbeat does.
        """
        keys = [self.keys.live, self.keys.progress, self.keys.cancels]
        answer = self.redis.call("touch", keys, [delivery.id, delivery.token, progress])
        if answer == 2 and delivery.cancelled_by is None:
            by = self.redis.ask("HGET", self.keys.cancels, delivery.id)
            delivery.cancelled_by = by.decode() if by else "somebody"
        return bool(answer)

    def start_worker(self, *, threads: int, loop_places: int) -> None:
        """Start what consuming needs. Called in the worker process, before Dramatiq starts its consumers."""
        self.worker = Executor(
            self,
            self.redis,
            self.keys,
            self.gates,
            pulse=self.pulse,
            liveness=self.liveness,
            heartbeat=self._heartbeat,
            limits=self.limits,
            weights=self.weights,
            threads=threads,
            loop_places=loop_places,
        )
        self.worker.start()


def check_names(type_name: str, queue: str, priority: str) -> None:
    """Raise InvalidInput for a type or queue that cannot be a name in Redis, or an unknown priority."""
    for field, value in (("type", type_name), ("queue", queue)):
        if not NAME.fullmatch(value):
            raise InvalidInput(field, f"{value[:80]!r} is not valid; valid: letters, digits, . _ - (at most 64)")
    if priority not in PRIORITIES:
        raise InvalidInput("priority", f"{priority[:80]!r} is not valid; valid: {', '.join(PRIORITIES)}")
