"""Workers with tasks at limiters, on the scripts and a real Redis. It asserts nothing about limits: the tests do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sytq import Breaker, Limiter, Permit, Waiting
from sytq.broker.limiter import PermitOutcome, settings_of
from sytq.broker.limiter_states import LimiterState, read_limiters
from sytq.broker.limiters import Limiters
from tests.broker.bench import LEASE_MS, Bench, Item

ONE = Limiter("provider:one", concurrency=1)
TWO = Limiter("provider:two", concurrency=2)
#: Its times are longer than any stall of the machine; `Play.later` lets them pass.
BREAKER = Breaker(max_requests=2, interval=60, timeout=60, fail_threshold=0.5, min_calls=4)


def acquire(limiters: Limiters, permit: Permit) -> None:
    """Acquire a permit, or raise the refusal."""
    (refusal,) = limiters.acquire_all([permit])
    if refusal is not None:
        raise refusal


class Play:
    """Workers with tasks at limiters."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.epoch: bytes | None = None  # of the Redis that the workers know
        self.limiters = Limiters(bench.redis, bench.keys, LEASE_MS / 1000, bench.handover, lambda: self.epoch)
        self.started: dict[str, tuple[str, Item]] = {}
        self.fetched: dict[str, Permit] = {}
        self.types = ""  # the limited types of the workers' configuration
        self.created: dict[str, int] = {}  # the first task to acquire is the oldest, unless a test says otherwise

    def limit_type(self, **limits: Any) -> Limiter:
        """Limit the type of all tasks, from the next fetch on."""
        limiter = Limiter("type:t", **limits)
        self.types = json.dumps({"t": settings_of(limiter)})
        return limiter

    def submit(self, *names: str) -> None:
        for name in names:
            self.bench.dispatch(name, max_attempts=0)

    def start(self, worker: str = "w", slots: int = 1000, sweep: bool = False, rate: int = 0) -> list[str]:
        """Fetch waiting tasks, and return their names."""
        held = [(item[0], item[1].decode()) for by, item in self.started.values() if by == worker]
        self.bench.redis.ask("DEL", self.bench.keys.crashes)  # no task becomes a suspect
        epoch = self.epoch or b""
        found = self.bench.fetch(
            worker, slots=slots, sweep=sweep, held=held, rate=rate, permits=epoch, types=self.types
        )
        for name, item in found.items():
            self.started[name] = (worker, item)
            self.fetched.pop(name, None)
            if len(item) > 7 and item[7]:
                at, _awaited, cost, *limits = (part.decode() for part in item[7])
                pairs = dict(zip(limits[::2], limits[1::2], strict=True))
                self.fetched[name] = Permit.fetched(
                    name, int(item[6]), self.created.get(name, 1), pairs, int(at), int(cost)
                )
        return list(found)

    def running(self, *names: str, worker: str = "w") -> None:
        self.submit(*names)
        assert sorted(self.start(worker)) == sorted(names)

    def permit(self, name: str, *limiters: Limiter, cost: int = 0, created: int | None = None) -> Permit:
        self.created.setdefault(name, len(self.created) + 1 if created is None else created)
        token = int(self.started[name][1][6])
        return Permit(name, token, self.created[name], limiters, cost)

    def acquire(self, name: str, *limiters: Limiter, cost: int = 0, created: int | None = None) -> Permit:
        permit = self.permit(name, *limiters, cost=cost, created=created).or_fetched(self.fetched.get(name))
        if permit.acquired_ms is None:
            acquire(self.limiters, permit)
        return permit

    def refused(self, name: str, *limiters: Limiter, cost: int = 0, created: int | None = None) -> Waiting:
        with pytest.raises(Waiting) as caught:
            self.acquire(name, *limiters, cost=cost, created=created)
        assert caught.value.consumes_attempt is False
        return caught.value

    def release(self, permit: Permit, outcome: PermitOutcome = "ok", cost: int | None = None) -> None:
        permit.report(outcome, cost=cost)
        self.limiters.release_all([permit])

    def ack(
        self, name: str, kind: str = "done", after: float = 0.0, permit_outcome: str = "ok", wanted: str = ""
    ) -> None:
        worker, item = self.started.pop(name)
        delay_ms = int(after * 1000)
        assert self.bench.ack(worker, item, kind, delay_ms=delay_ms, permit_outcome=permit_outcome, wanted=wanted) == 1

    def wait(self, name: str, *limiters: Limiter, cost: int = 0, created: int | None = None) -> Waiting:
        """Be refused, and retry as the worker does it."""
        refusal = self.refused(name, *limiters, cost=cost, created=created)
        assert isinstance(refusal.after, float) and refusal.permit
        self.ack(name, "wait", refusal.after, wanted=refusal.permit.wanted(None))
        return refusal

    def called(self) -> list[str]:
        """Promote due tasks and start them; return their names in the order of their start."""
        self.bench.promote()
        return self.start()

    def tend(self) -> None:
        keys = self.bench.keys
        self.bench.redis.ask("ZADD", keys.limiters_due, "XX", 0, *self._known()) if self._known() else None
        self.bench.tend()

    def later(self, seconds: float = 61) -> None:
        """Let time pass while the workers renew their leases."""
        self.bench.advance(int(seconds * 1000))

    def _known(self) -> list[object]:
        known = self.bench.redis.ask("ZRANGE", self.bench.keys.limiters_due, 0, -1)
        return [part for name in known for part in (0, name)][1:]

    def state(self, limiter: Limiter) -> LimiterState:
        (state,) = read_limiters(self.bench.redis, self.bench.keys, limiter.name)
        return state
