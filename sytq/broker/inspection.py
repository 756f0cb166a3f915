"""What Redis knows now: the one place that reads it for people, metrics and answers.

Owns reading; changes nothing. All methods raise RedisUnavailable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sytq.broker.keys import GROUP, Keys
from sytq.broker.redis import Redis
from sytq.errors import RedisUnavailable
from sytq.states import PRIORITIES


@dataclass(frozen=True, slots=True)
class Live:
    """A task's state at this moment, possibly newer than its row."""

    state: str
    queue: str
    priority: str
    attempts: int
    token: int
    worker: str | None
    progress: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many tasks of one queue and priority wait and run."""

    queue: str
    priority: str
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker and the seconds since its last heartbeat."""

    name: str
    age: float


class Inspection:
    """Reads of one Redis; `queues` are those that the installed task types use."""

    def __init__(self, redis: Redis, keys: Keys, queues: Iterable[str]) -> None:
        self._redis = redis
        self._keys = keys
        self._queues = sorted(queues)

    def live(self, ids: Sequence[str]) -> dict[str, Live]:
        """Return those of `ids` that Redis knows."""
        if not ids:
            return {}
        states = self._redis.ask("HMGET", self._keys.live, *ids)
        progress = self._redis.ask("HMGET", self._keys.progress, *ids)
        found = {}
        for task_id, state, shown in zip(ids, states, progress, strict=True):
            if state is not None:
                word, _type, queue, priority, attempts, _max, token, worker, _entry = state.decode().split("|")
                found[task_id] = Live(
                    word,
                    queue,
                    priority,
                    int(attempts),
                    int(token),
                    worker or None,
                    json.loads(shown) if shown else None,
                )
        return found

    def queues(self) -> list[Depth]:
        """Return every queue and priority with its depth."""
        depths = []
        for queue in self._queues:
            for priority in PRIORITIES:
                stream = self._keys.stream(queue, priority)
                length = self._redis.ask("XLEN", stream)
                running = self._pending(stream) if length else 0
                depths.append(Depth(queue, priority, max(length - running, 0), running))
        return depths

    def delayed(self) -> dict[str, int]:
        """Return how many tasks wait for their time, per queue."""
        return {queue: self._redis.ask("ZCARD", self._keys.delayed(queue)) for queue in self._queues}

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that gave a sign within the last hour."""
        now = self._now()
        beats = self._redis.ask("ZRANGE", self._keys.workers, 0, -1, "WITHSCORES")
        pairs = zip(beats[::2], beats[1::2], strict=True)
        return [WorkerInfo(name.decode(), max(0.0, now - float(score) / 1000)) for name, score in pairs]

    def totals(self) -> dict[tuple[str, str], int]:
        """Return counts since this Redis was first seen, by (type, outcome)."""
        stats = self._redis.ask("HGETALL", self._keys.stats)
        pairs = stats.items() if isinstance(stats, dict) else zip(stats[::2], stats[1::2], strict=True)
        return {_split(name.decode()): int(count) for name, count in pairs}

    def epoch_age(self) -> float | None:
        """Return for how many seconds this Redis has been known, None when it never was."""
        epoch = self._redis.ask("GET", self._keys.epoch)
        return None if epoch is None else max(0.0, self._now() - int(epoch) / 1000)

    def ping(self) -> None:
        """Raise RedisUnavailable when Redis does not answer."""
        self._redis.ask("PING")

    def _now(self) -> float:
        seconds, micros = self._redis.ask("TIME")
        return float(seconds + micros / 1e6)

    def _pending(self, stream: str) -> int:
        try:
            reply = self._redis.ask("XPENDING", stream, GROUP)
        except RedisUnavailable as error:
            if "NOGROUP" in str(error):
                return 0  # nobody has consumed it yet
            raise
        return int(reply["pending"] if isinstance(reply, dict) else reply[0])


def _split(name: str) -> tuple[str, str]:
    type_name, _, outcome = name.rpartition(":")
    return type_name, outcome
