"""A limiter: a limit on a resource that many tasks share, such as a provider, a model or a host; and a permit of it."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from sytq.deprecated import renamed_arguments
from sytq.errors import InvalidInput
from sytq.states import LIMITER_NAME

if TYPE_CHECKING:
    from sytq.config.limiters import LimiterSettings

PermitOutcome = Literal["ok", "overloaded", "failed", "ignored"]
_OUTCOMES = get_args(PermitOutcome)

#: The id of the permit that a fetch grants, as in _admit.lua.
_FETCHED = "0"
#: Of one permit.
MAX_LIMITERS = 8


@dataclass(frozen=True)
class Breaker:
    """When a circuit breaker opens and closes. Times are seconds.

    Closed: calls pass. When, of at least `min_calls` results within `interval`, the part `fail_threshold` has failed,
    the breaker opens. Open: no call passes for `timeout`. Half open: `max_requests` calls pass; when all of them
    succeed the breaker closes, when one fails it opens again.
    """

    max_requests: int = 2
    interval: float = 60.0
    timeout: float = 120.0
    fail_threshold: float = 0.5
    min_calls: int = 5

    def __post_init__(self) -> None:
        for name in ("max_requests", "interval", "timeout", "min_calls"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Breaker: {name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.fail_threshold <= 1:
            raise ValueError(f"Breaker: fail_threshold must be above 0 and at most 1, not {self.fail_threshold}")


@renamed_arguments(running="concurrency", units="cost")
@dataclass(frozen=True)
class Limiter:
    """A name and the load that it bears, over all workers; 0 is no limit.

    `concurrency`: permits held at once; with `adaptive` the limit in force moves between 1 and that, by what `report`
    says. `calls`, `cost`: permits, and the sum of their costs (tokens), acquired within any `window` seconds.
    `configuration`: the fingerprint of what the calls are made with (sytq.config.fingerprint); a pause may be for that.
    The limits are those of the latest acquisition; limiters are told apart by `name` alone, as "provider:deepseek".
    """

    name: str
    concurrency: int = 0
    adaptive: bool = False
    calls: int = 0
    cost: int = 0
    window: float = 60.0
    breaker: Breaker | None = None
    configuration: str = ""

    def __post_init__(self) -> None:
        check_limiter_name(self.name)
        for name in ("concurrency", "calls", "cost"):
            if getattr(self, name) < 0:
                raise ValueError(f"Limiter {self.name}: {name} must not be below 0: {getattr(self, name)}")
        if self.window <= 0:
            raise ValueError(f"Limiter {self.name}: window must be above 0 s, not {self.window}")

    @functools.cached_property
    def limits(self) -> str:
        """What the scripts read of it, as JSON."""
        return settings_of(self)


class Permit:
    """Leave to use what all its limiters guard; made by `ctx.acquire`."""

    def __init__(self, task_id: str, token: int, created_ms: int, limiters: Iterable[Limiter], cost: int) -> None:
        self.limits = {limiter.name: limiter.limits for limiter in limiters}  # name -> limits, as JSON
        if len(self.limits) > MAX_LIMITERS:
            raise ValueError(f"a permit has at most {MAX_LIMITERS} limiters, not {len(self.limits)}")
        self.task_id = task_id
        self.token = token
        self.created = f"{created_ms:013d}"
        self.reserved = self.cost = max(0, cost)
        self.outcome: PermitOutcome | Literal["unused"] = "ignored"
        self.in_place_ms = 0  # the longest wait for it that the attempt itself stays for; 0 once it is longer
        self.replaces = False  # what the task was fetched with, of which it has made no use
        self.refused_by = ""  # the limiter in whose wait queue the task is
        self.acquired_ms: int | None = None  # None while it is not held
        self.asked = float("-inf")  # when Redis was last asked for it, of `time.monotonic`
        self.released = False
        self.lock = threading.Lock()  # a cancelled task may release while another thread still acquires

    @classmethod
    def fetched(
        cls, task_id: str, token: int, created_ms: int, limits: dict[str, str], acquired_ms: int, cost: int
    ) -> Permit:
        """The permit that a task was fetched with; the acknowledgement releases it."""
        permit = cls(task_id, token, created_ms, (), cost)
        permit.id = _FETCHED
        permit.limits, permit.acquired_ms, permit.outcome = limits, acquired_ms, "unused"
        return permit

    @functools.cached_property
    def id(self) -> str:
        """Among the permits of its task."""
        return os.urandom(6).hex()

    @property
    def unused(self) -> bool:
        """Whether the task was fetched with it, and has not asked for it."""
        return self.outcome == "unused"

    def or_fetched(self, fetched: Permit | None) -> Permit:
        """The permit that the task was fetched with, if that is as good as this one; else this one in its place."""
        if fetched is None or not fetched.unused:
            return self
        same = fetched.limits == self.limits or self.limits == {
            name: limits for name, limits in fetched.limits.items() if not name.startswith("type:")
        }
        costs_more = self.cost > fetched.reserved and any('"units":0,' not in each for each in self.limits.values())
        if not same or costs_more:
            self.replaces = True
            return self
        fetched.outcome, fetched.cost = "ignored", self.cost
        return fetched

    def wanted(self, fetched: Permit | None) -> str:
        """What the task waits for that was refused this permit, for ack.lua: `fetched`, too, which it needs again."""
        names = dict.fromkeys((self.refused_by, *self.limits, *(fetched.limits if fetched else ())))
        return " ".join((self.created, str(int(self.reserved)), *names))

    @renamed_arguments(units="cost")
    def report(self, outcome: PermitOutcome, *, cost: int | None = None) -> None:
        """Say how the call went, and what it really cost; the last report counts.

        "ok", "overloaded" (the other side has too much to do), "failed" (it does not work), "ignored" (the call says
        nothing about the other side; also without a report). The breaker counts the first three, the second and third
        as failures; the adaptive limit rises by the first and falls by the second.
        """
        if outcome not in _OUTCOMES:
            raise ValueError(f"report: '{outcome}' is not valid; valid: {', '.join(_OUTCOMES)}")
        self.outcome = outcome
        if cost is not None:
            self.cost = max(0, cost)


def check_limiter_name(name: str) -> None:
    """Raise InvalidInput for an invalid name."""
    if not LIMITER_NAME.fullmatch(name):
        raise InvalidInput("limiter", f"{name[:80]!r} is not valid; valid: up to 300 ASCII characters but space and |")


def check_acquired_name(name: str) -> None:
    """Raise ValueError for the name of a task type's or a queue's limiter."""
    prefix, _, rest = name.partition(":")
    if prefix in ("type", "queue"):
        raise ValueError(
            f"limiter {name!r}: '{prefix}:' is the limiter of the {prefix} {rest!r}, whose permits are granted with "
            f"the task and acquired by no code; set its limits in the configuration (limiters.{name}), or give a "
            "limiter of your own another prefix"
        )


def configured(limiter: Limiter, settings: Mapping[str, LimiterSettings]) -> Limiter:
    """Return the limiter as the configuration has it, where that has its name, else as code states it."""
    own = settings.get(limiter.name)
    return _replaced(limiter, own) if own else limiter


@functools.lru_cache(maxsize=1000)
def _replaced(limiter: Limiter, own: LimiterSettings) -> Limiter:
    given = own.model_dump(include={"concurrency", "adaptive", "cost", "window"}, exclude_none=True)
    if own.rate:
        given["calls"], given["window"] = own.rate
    if own.breaker:
        breaker = own.breaker.model_dump(exclude={"enabled"})
        given["breaker"] = Breaker(**breaker) if own.breaker.enabled else None
    return replace(limiter, **given)


@functools.lru_cache(maxsize=1000)
def settings_of(limiter: Limiter) -> str:
    """What the scripts read of a limiter, as JSON."""
    # Workers of both versions read this from Redis during an upgrade: the names stay.
    settings: dict[str, Any] = {
        "running": limiter.concurrency,
        "adaptive": limiter.adaptive,
        "calls": limiter.calls,
        "units": limiter.cost,
        "window": int(limiter.window * 1000),
    }
    if limiter.configuration:
        settings["configuration"] = limiter.configuration
    if limiter.breaker is not None:
        settings["breaker"] = {
            "max_requests": limiter.breaker.max_requests,
            "interval": int(limiter.breaker.interval * 1000),
            "timeout": int(limiter.breaker.timeout * 1000),
            "fail_threshold": limiter.breaker.fail_threshold,
            "min_calls": limiter.breaker.min_calls,
        }
    return json.dumps(settings, separators=(",", ":"))
