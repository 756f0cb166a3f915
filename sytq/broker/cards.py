"""What workers and API processes say of themselves: a card of each, as JSON. A worker's travels with its heartbeat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys

#: Seconds between two cards of an API process, and after how many it is gone.
WRITTEN, GONE = 10.0, 45.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A living process, and its card; None of a worker that is older than cards, or has just begun."""

    name: str
    age: float
    card: dict[str, Any] | None


class Cards:
    """Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis, keys: Keys, lease: float) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease

    def workers(self) -> list[Seen]:
        """The workers with a valid lease. Three round trips."""
        return self._seen(self._keys.workers, self._lease)

    def apis(self) -> list[Seen]:
        """The API processes. Three round trips."""
        return self._seen(self._keys.apis, GONE)

    def write(self, name: str, card: str) -> None:
        """Write the card of an API process."""
        self._redis.ask("HSET", self._keys.cards, name, card)
        self._redis.ask("ZADD", self._keys.apis, round(self._redis.time() * 1000), name)

    def remove(self, name: str) -> None:
        self._redis.ask("ZREM", self._keys.apis, name)
        self._redis.ask("HDEL", self._keys.cards, name)

    def prune(self) -> None:
        """Remove the cards of processes that are gone."""
        oldest = round((self._redis.time() - GONE) * 1000)
        self._redis.ask("ZREMRANGEBYSCORE", self._keys.apis, "-inf", oldest)
        written = set(self._redis.ask("HKEYS", self._keys.cards))
        there = {
            name for key in (self._keys.workers, self._keys.apis) for name in self._redis.ask("ZRANGE", key, 0, -1)
        }
        if gone := written - there:
            self._redis.ask("HDEL", self._keys.cards, *gone)

    def _seen(self, key: str, within: float) -> list[Seen]:
        now = self._redis.time()
        beats = self._redis.ask("ZRANGE", key, 0, -1, "WITHSCORES")
        ages = {
            name.decode(): max(0.0, now - float(ms) / 1000) for name, ms in zip(beats[::2], beats[1::2], strict=True)
        }
        names = sorted(name for name, age in ages.items() if age <= within)
        cards = self._redis.ask("HMGET", self._keys.cards, *names) if names else []
        return [Seen(name, ages[name], _parsed(card)) for name, card in zip(names, cards, strict=True)]


def _parsed(card: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(card) if card else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
