"""The dispatcher: writes accepted tasks to Redis, without Dramatiq or a worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sytq.broker.keys import Keys
from sytq.errors import InvalidInput
from sytq.states import NAME, PRIORITIES

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all


#: How long after its call a task may still be dispatched: half the life of the marks of finished tasks.
_LATEST_MS = 5_000
#: Bounds one script call.
_BATCH = 200


@dataclass(slots=True)
class Envelope:
    """A task as written to Redis. `payload` is JSON text; `due_ms` 0 is now; `max_attempts` 0 is no bound."""

    id: str
    type: str
    queue: str
    priority: str
    payload: str
    created_ms: int
    due_ms: int = 0
    attempts: int = 0
    max_attempts: int = 0
    retry_delay: float | None = None  # seconds, instead of the type's
    token: int = 0  # of the latest attempt; the next one is larger
    request_id: str | None = None
    traceparent: str | None = None
    version: int | None = None  # of the payload
    limiters: tuple[str, ...] = ()  # whose permits it is fetched with

    def message(self) -> str:
        """Return the Dramatiq message as the stream carries it."""
        # Joined as text, because the payload is JSON already.
        more = ""
        if self.request_id is not None:
            more += f', "request_id": {json.dumps(self.request_id)}'
        if self.traceparent is not None:
            more += f', "traceparent": {json.dumps(self.traceparent)}'
        head = _head(self.queue, self.type, self.priority, " ".join(self.limiters), self.retry_delay, self.version)
        tail = f'"message_id": {json.dumps(self.id)}, "message_timestamp": {self.created_ms}'
        return f'{head}{more}}}, "args": [{self.payload}], {tail}}}'


@lru_cache(maxsize=1000)
def _head(
    queue: str, type_name: str, priority: str, limiters: str, retry_delay: float | None, version: int | None
) -> str:
    """Return the part that many messages share: JSON that ends inside `options`."""
    options: dict[str, Any] = {"priority": priority}
    if limiters and not {'"', "\\"} & set(limiters):  # _start.lua reads them behind the priority, without escapes
        options["limiters"] = limiters
    if retry_delay is not None:
        options["retry_delay"] = retry_delay
    if version is not None:
        options["version"] = version
    head = {"queue_name": queue, "actor_name": type_name, "kwargs": {}, "options": options}
    return json.dumps(head)[:-2]


class Dispatcher:
    """Dispatches tasks below one prefix. Thread-safe."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def dispatch(self, envelopes: Sequence[Envelope], *, not_after_ms: int = 0) -> int:
        """Dispatch the tasks that Redis does not know yet and return their number; repeating it is harmless.

        Redis refuses tasks that arrive after `not_after_ms` by its clock (0: some seconds from now): a call that the
        network delayed could repeat tasks that the reconciler dispatched meanwhile, and that ended and were forgotten.
        Raises RedisUnavailable, and InvalidInput for an invalid name.
        """
        not_after_ms = not_after_ms or self._redis.now_ms() + _LATEST_MS
        starts = range(0, len(envelopes), _BATCH)
        return sum(self._dispatch(envelopes[start : start + _BATCH], not_after_ms) for start in starts)

    def _dispatch(self, envelopes: Sequence[Envelope], not_after_ms: int) -> int:
        # The parts that most tasks share are sent once.
        kinds: dict[tuple[str, str, str, int, int, int], int] = {}
        tasks: list[str | int] = []
        for one in envelopes:
            kind = (one.type, one.queue, one.priority, one.attempts, one.max_attempts, one.token)
            tasks += (kinds.setdefault(kind, len(kinds) + 1), one.id, one.due_ms, one.message())
        streams: dict[tuple[str, str], int] = {}
        args: list[str | int] = [not_after_ms, len(kinds)]
        for kind in kinds:
            type_name, queue, priority, *_ = kind
            check_names(type_name, queue, priority)
            args += (*kind, streams.setdefault((queue, priority), len(streams) + 1))
        keys = self._keys
        names = [keys.live, keys.stats, keys.bell, keys.queues]
        for queue, priority in streams:
            names += [keys.stream(queue, priority), keys.delayed(queue), keys.bodies(queue)]
        return max(0, int(self._redis.call("dispatch", names, args + tasks)))


def check_names(type_name: str, queue: str, priority: str) -> None:
    """Raise InvalidInput for a type or queue that cannot be a name in Redis, or an unknown priority."""
    for field, value in (("type", type_name), ("queue", queue)):
        if not NAME.fullmatch(value):
            raise InvalidInput(field, f"{value[:80]!r} is not valid; valid: letters, digits, . _ - (at most 64)")
    if priority not in PRIORITIES:
        raise InvalidInput("priority", f"{priority[:80]!r} is not valid; valid: {', '.join(PRIORITIES)}")
