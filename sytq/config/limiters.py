"""The section `limiters`: the settings of limiters by name, in place of those that code states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from sytq.config.sections import PositiveDuration, QueueLimits, Section
from sytq.config.values import Count, Rate, problem
from sytq.states import LIMITER_NAME, NAME

LimiterName = Annotated[
    str, Field(pattern=f"^{LIMITER_NAME.pattern}$"), "up to 300 ASCII characters but space and |, as provider:deepseek"
]

#: What can be set of the limiters that a fetch alone asks, which know no costs and no overload.
_OF_KIND = {"queue": ("concurrency", "rate"), "type": ("concurrency", "rate", "breaker")}


class CircuitBreaker(Section):
    enabled: bool = True
    max_requests: Count = 2
    interval: PositiveDuration = 60.0
    timeout: PositiveDuration = 120.0
    fail_threshold: float = Field(default=0.5, gt=0, le=1)
    min_calls: Count = 5


class LimiterSettings(Section):
    """None keeps what code states; 0 is no limit."""

    concurrency: Annotated[int, Field(ge=0)] | None = None
    adaptive: bool | None = None
    rate: Rate | None = None
    cost: Annotated[int, Field(ge=0)] | None = None
    window: PositiveDuration | None = None
    breaker: CircuitBreaker | None = None

    @model_validator(mode="after")
    def _one_window(self) -> LimiterSettings:
        if self.rate and self.window and self.window != self.rate[1]:
            raise problem("not the time of the rate", "one of the two", key="window", value=f"{self.window:g}s")
        return self


def of_kind(kind: str, limiters: Mapping[str, LimiterSettings]) -> dict[str, LimiterSettings]:
    """Return the settings of the limiters `kind:NAME` by NAME."""
    named = ((name.partition(":"), limiter) for name, limiter in limiters.items())
    return {rest: limiter for (found, _, rest), limiter in named if found == kind}


def check_limiters(limiters: Mapping[str, LimiterSettings], queues: Mapping[str, QueueLimits]) -> None:
    """Raise for settings that a queue or a task type cannot have, and for a queue that both sections limit."""
    for kind, valid in _OF_KIND.items():
        for name, limiter in of_kind(kind, limiters).items():
            key = f"{kind}:{name}"
            if not NAME.fullmatch(name):
                raise problem(f"not the name of a {kind}", f"{kind}:NAME", key=key, value=name)
            for setting in sorted(limiter.model_fields_set.difference(valid)):
                raise problem(f"not of a {kind}", ", ".join(valid), key=key, value=setting)
            known = queues.get(name) if kind == "queue" else None
            if known and (known.limit or known.rate):
                raise problem(f"queues.{name} has a limit or rate too", "one of the two", key=key, value=key)


def limits_of_queues(
    limiters: Mapping[str, LimiterSettings], queues: Mapping[str, QueueLimits]
) -> dict[str, QueueLimits]:
    """Return the limits of all queues, of both sections."""
    found = dict(queues)
    for queue, limiter in of_kind("queue", limiters).items():
        own = {"limit": limiter.concurrency or None, "rate": limiter.rate}
        found[queue] = found.get(queue, QueueLimits()).model_copy(update=own)
    return found
