"""Quotas of callers, counted in Redis for all processes. Callers decide what happens while Redis is unavailable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sytq.broker.keys import Keys

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all


_BATCH = 100


@dataclass(frozen=True, slots=True)
class QuotaRequest:
    """Takes `count` (negative: returns) of the quota `name`, which allows `quota` within `window_ms`."""

    name: str
    quota: int
    window_ms: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """Whether the request fit, the used part of the quota, and the ms until its window ends."""

    fits: bool
    used: int
    left_ms: int


class Quotas:
    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def take(self, takes: Sequence[QuotaRequest]) -> list[QuotaUse]:
        """Take the requests that fit, in order, a hundred in a round trip. Raises RedisUnavailable."""
        readings: list[QuotaUse] = []
        for start in range(0, len(takes), _BATCH):
            part = takes[start : start + _BATCH]
            names = [self._keys.meter(take.name) for take in part]
            answers = self._redis.call(
                "quota", names, [n for take in part for n in (take.quota, take.count, take.window_ms)]
            )
            readings += [QuotaUse(bool(fits), used, left) for fits, used, left in answers]
        return readings
