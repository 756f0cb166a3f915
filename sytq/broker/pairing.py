"""Redis' half of the pair: its identity, and which ledger it serves."""

from __future__ import annotations

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.pairing import Half, Partner


class RedisHalf:
    """Reads and writes one hash. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis, keys: Keys, place: str) -> None:
        self.place = place
        self._redis = redis
        self._keys = [keys.pair]

    def read(self, new: str = "") -> Half:
        """Read the half; a Redis without an identity, new or emptied, gets `new`, unless that is empty."""
        now, *pairs = self._redis.call("pairing", self._keys, ["read", new])
        found = {name.decode(): value.decode() for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
        return Half(
            found.get("id", ""),
            int(found.get("beat", 0)),
            _partner(found, int(now), "ledger", "place", "worker", "seen_at"),
            _partner(found, int(now), "other", "other_place", "other_worker", "other_at"),
        )

    def claim(self, there: Half, ledger: str, place: str, worker: str, beat: int) -> bool:
        """Say that this Redis serves the ledger, unless it has begun to serve another since `there` was read."""
        expected = there.partner.id if there.partner else ""
        return bool(self._redis.call("pairing", self._keys, ["claim", expected, ledger, place, worker, beat]))

    def refuse(self, ledger: str, place: str, worker: str) -> None:
        """Remember a refused ledger, so that the workers of the serving one can name it."""
        self._redis.call("pairing", self._keys, ["refuse", ledger, place, worker])


def _partner(found: dict[str, str], now: int, *names: str) -> Partner | None:
    own, place, worker, at = (found.get(name, "") for name in names)
    return Partner(own, place, worker, at, (now - int(at)) / 1000) if own else None
