"""The state of limiters, for people, metrics and answers. Reads only; docs/limiters.md explains the fields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sytq.broker.keys import Keys
from sytq.broker.limiters import limiter_keys

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all


_MAX_OTHERS = 100
_MAX_HOSTS = 20


@dataclass(frozen=True, slots=True)
class LimiterState:
    """A limiter at this moment; the fields are those of `sytq limiters --json`. Limits: 0 is none. Unix seconds."""

    name: str
    state: str  # closed (calls pass), open or half_open (its circuit breaker), paused
    running: int  # permits held, of tasks that run and of tasks that were handed one and start next
    limit_now: int  # permits that may be held: less than `limit` when adaptive
    limit: int
    waiting: int  # tasks in the wait queue
    calls_in_window: int
    calls: int  # the limit
    units_in_window: int  # the sum of the costs
    units: int  # the limit
    window: float  # seconds
    failures: int  # within the breaker's interval
    took: float | None  # recent average of the seconds that a permit is held
    since: float  # start of the state
    until: float | None  # when a pause or an open breaker ends by itself
    reason: str | None
    by: str | None  # who paused it
    inside: list[str]  # ids of the first tasks that hold a permit
    line: list[str]  # ids of the first tasks in the wait queue; like `inside`, only of a limiter read by name


def read_limiters(redis: Redis, keys: Keys, *names: str) -> list[LimiterState]:
    """Return these limiters, or all, sorted by name; a limiter idle for an hour is not known."""
    found = {}
    cursor = b"0"
    while True:
        cursor, *rows = redis.call("limiter_read", limiter_keys(keys), [0, cursor, 100, *names])
        for name, state in rows:
            found[name.decode()] = _state(name.decode(), state)
        if cursor == b"0":
            return [found[name] for name in sorted(found)]


def that_matter(limiters: Iterable[LimiterState]) -> list[LimiterState]:
    """Return a bounded number of limiters for metrics: first those not closed, then the longest wait queues.

    Callers name hosts and models, so their number is open. Hosts come and go, so fewer hosts than others are returned.
    """
    ranked = sorted(limiters, key=lambda one: (one.state == "closed", -one.waiting, -one.running, one.name))
    hosts = [limiter for limiter in ranked if limiter.name.startswith("host:")]
    others = [limiter for limiter in ranked if not limiter.name.startswith("host:")]
    return [*others[:_MAX_OTHERS], *hosts[:_MAX_HOSTS]]


def _state(name: str, text: bytes) -> LimiterState:
    state = json.loads(text)
    return LimiterState(
        name=name,
        state=state["state"],
        running=state["running"],
        limit_now=state["limit_now"],
        limit=state["limit"],
        waiting=state["waiting"],
        calls_in_window=state["calls"],
        calls=state["max_calls"],
        units_in_window=state["cost"],
        units=state["max_cost"],
        window=state["window"] / 1000,
        failures=state["failures"],
        took=state["took"] / 1000 if "took" in state else None,
        since=state["since"] / 1000,
        until=state["until"] / 1000 if state.get("until") else None,
        reason=state.get("reason") or None,
        by=state.get("by"),
        inside=list(state.get("holders") or []),
        line=list(state.get("queue") or []),
    )
