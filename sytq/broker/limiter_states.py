"""How gates are, for people, metrics and answers.

Owns reading them; changes nothing. What the words mean is in docs/gates.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.limiter import limiter_keys

_MOST = 100
_MOST_HOSTS = 20


@dataclass(frozen=True, slots=True)
class LimiterState:
    """A gate at this moment. Limits: 0 is none. Times are unix seconds."""

    name: str
    state: str  # closed (calls pass), open or half_open (its circuit breaker), paused
    running: int  # passages inside
    limit_now: int  # how many may be: less than `limit` when that adapts
    limit: int
    waiting: int  # tasks in line, including those that were called and are on the way
    calls_in_window: int
    calls: int  # the limit
    units_in_window: int
    units: int  # the limit
    window: float  # seconds
    failures: int  # within the breaker's interval
    took: float | None  # seconds that a passage takes, on average of late
    since: float  # of the state
    until: float | None  # when a pause or an open breaker ends by itself
    reason: str | None
    by: str | None  # who paused it
    inside: list[str]  # ids of the first tasks there, and
    line: list[str]  # of the first in line; both only of a gate that was asked for by name


def read_limiters(redis: Redis, keys: Keys, *names: str) -> list[LimiterState]:
    """Return these gates, or all of them, by name; one that nobody used for an hour is not known. See Inspection."""
    found = {}
    cursor = b"0"
    while True:
        cursor, *rows = redis.call("limiter_read", limiter_keys(keys), [0, cursor, 100, *names])
        for name, seen in rows:
            found[name.decode()] = _state(name.decode(), seen)
        if cursor == b"0":
            return [found[name] for name in sorted(found)]


def that_matter(gates: Iterable[LimiterState]) -> list[LimiterState]:
    """Those worth a series of metrics each: a bounded number, first what is not closed, then the longest lines.

    Callers name hosts and models. Hosts come and go, so there are fewer of them among these.
    """
    ranked = sorted(gates, key=lambda gate: (gate.state == "closed", -gate.waiting, -gate.running, gate.name))
    hosts = [gate for gate in ranked if gate.name.startswith("host:")]
    others = [gate for gate in ranked if not gate.name.startswith("host:")]
    return [*others[:_MOST], *hosts[:_MOST_HOSTS]]


def _state(name: str, text: bytes) -> LimiterState:
    seen = json.loads(text)
    return LimiterState(
        name=name,
        state=seen["state"],
        running=seen["running"],
        limit_now=seen["limit_now"],
        limit=seen["limit"],
        waiting=seen["waiting"],
        calls_in_window=seen["calls"],
        calls=seen["most_calls"],
        units_in_window=seen["units"],
        units=seen["most_units"],
        window=seen["window"] / 1000,
        failures=seen["failures"],
        took=seen["took"] / 1000 if "took" in seen else None,
        since=seen["since"] / 1000,
        until=seen["till"] / 1000 if seen.get("till") else None,
        reason=seen.get("why") or None,
        by=seen.get("by"),
        inside=list(seen.get("inside") or []),
        line=list(seen.get("line") or []),
    )
