"""Allowances of callers, one count for all processes.

Owns the counts in Redis. Must not know whose they are; what happens without Redis is the caller's to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys

_BATCH = 100


@dataclass(frozen=True, slots=True)
class QuotaRequest:
    """Of the quota `name`, which allows `quota` in a window of `window_ms`: `count`, or give back when negative."""

    name: str
    quota: int
    window_ms: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """Whether a take did fit, what is used of the quota now, and the ms until its window ends."""

    fits: bool
    used: int
    left_ms: int


class Quotas:
    """See the module."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def take(self, takes: Sequence[QuotaRequest]) -> list[QuotaUse]:
        """Take from each quota what fits, in order. One round trip a hundred. Raises RedisUnavailable."""
        readings: list[QuotaUse] = []
        for start in range(0, len(takes), _BATCH):
            part = takes[start : start + _BATCH]
            names = [self._keys.meter(take.name) for take in part]
            answers = self._redis.call(
                "quota", names, [n for take in part for n in (take.quota, take.count, take.window_ms)]
            )
            readings += [QuotaUse(bool(fits), used, left) for fits, used, left in answers]
        return readings
