"""The state of limiters, for people, metrics and answers. Reads only; docs/limiters.md explains the fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sytq.broker.keys import GROUP, Keys
from sytq.broker.limiters import limiter_keys
from sytq.config.sections import QueueLimits

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all

_MAX_OTHERS = 100
_MAX_HOSTS = 20


@dataclass(frozen=True, slots=True)
class LimiterState:
    """A limiter at this moment; the fields are those of `sytq limiters --json`. Limits: 0 is none. Unix seconds."""

    name: str
    state: str  # closed (calls pass), open or half_open (its circuit breaker), paused
    #: Permits held, of tasks that run and of tasks that were handed one and start next; of a queue: the tasks that run;
    #: None of a type without limits.
    running: int | None = None
    limit_now: int = 0  # permits that may be held: less than `limit` when adaptive
    limit: int = 0
    waiting: int = 0  # tasks in the wait queue; of a queue: in its streams
    calls_in_window: int = 0
    calls: int = 0  # the limit
    units_in_window: int = 0  # the sum of the costs
    units: int = 0  # the limit
    window: float = 60.0  # seconds
    failures: int = 0  # within the breaker's interval
    took: float | None = None  # recent average of the seconds that a permit is held
    since: float | None = None  # start of the state; None of a queue
    until: float | None = None  # when a pause or an open breaker ends by itself
    reason: str | None = None
    by: str | None = None  # who paused it
    inside: list[str] = field(default_factory=list)  # ids of the first tasks that hold a permit
    #: Ids of the first tasks in the wait queue; like `inside`, only of a limiter read by name.
    line: list[str] = field(default_factory=list)

    @property
    def urgency(self) -> tuple[bool, int, int, str]:
        """The key of an order: first what is not closed, then the longest wait queue."""
        return self.state == "closed", -self.waiting, -(self.running or 0), self.name


def read_all(redis: Redis, keys: Keys, queues: Mapping[str, QueueLimits], *names: str) -> list[LimiterState]:
    """Return these limiters, or all, sorted by name: also `queue:NAME` with a limit or rate."""
    found = {limiter.name: limiter for limiter in read_limiters(redis, keys, *names)}
    found |= {limiter.name: limiter for limiter in _queues(redis, keys, queues, names)}
    return [found[name] for name in sorted(found)]


def _queues(
    redis: Redis, keys: Keys, queues: Mapping[str, QueueLimits], names: tuple[str, ...]
) -> Iterator[LimiterState]:
    for queue, limits in queues.items():
        name = f"queue:{queue}"
        if not (limits.limit or limits.rate) or (names and name not in names):
            continue
        depths = redis.call("depth", keys.streams(queue), [GROUP])
        calls, window = limits.rate or (0, 60.0)
        edge = f"({redis.now_ms() - int(window * 1000)}"
        yield LimiterState(
            name,
            "closed",
            running=sum(running for _, running, _ in depths),
            limit_now=limits.limit or 0,
            limit=limits.limit or 0,
            waiting=sum(waiting for waiting, *_ in depths),
            calls_in_window=int(redis.ask("ZCOUNT", keys.rate(queue), edge, "+inf")) if calls else 0,
            calls=calls,
            window=window,
        )


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
    ranked = sorted(limiters, key=lambda one: one.urgency)
    hosts = [limiter for limiter in ranked if limiter.name.startswith("host:")]
    others = [limiter for limiter in ranked if not limiter.name.startswith("host:")]
    return [*others[:_MAX_OTHERS], *hosts[:_MAX_HOSTS]]


def _state(name: str, text: bytes) -> LimiterState:
    state = json.loads(text)
    counted = not name.startswith("type:") or bool(state["limit"] or state["max_calls"])
    return LimiterState(
        name=name,
        state=state["state"],
        running=state["running"] if counted else None,
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
        since=state["since"] / 1000 if "since" in state else None,
        until=state["until"] / 1000 if state.get("until") else None,
        reason=state.get("reason") or None,
        by=state.get("by"),
        inside=list(state.get("holders") or []),
        line=list(state.get("queue") or []),
    )
