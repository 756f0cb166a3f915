"""Decides what each failed call leads to, for one call and for a chain of providers; docs/llm.md explains the table."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sytq import Fail, Retry

from .answer import ChatError, Kind

Then = Literal["dead", "retry", "wait", "pause"]
Report = Literal["ok", "overloaded", "failed", "ignored"]


@dataclass(frozen=True, slots=True)
class Policy:
    """`then` ends the attempt, after the `fallback` if there is one. `report` is for the limiters."""

    then: Then
    report: Report
    fallback: bool = True


POLICIES: Mapping[Kind, Policy] = {
    "rejected": Policy("dead", "ok", fallback=False),
    "unauthorized": Policy("pause", "ignored"),
    "no_credit": Policy("pause", "ignored"),
    "rate_limited": Policy("wait", "overloaded"),
    "overloaded": Policy("retry", "overloaded"),
    "unavailable": Policy("retry", "failed"),
    "redirect": Policy("retry", "failed"),
    "network": Policy("retry", "failed"),
    "broken_off": Policy("retry", "failed"),
    "first_content": Policy("retry", "failed"),
    "silence": Policy("retry", "failed"),
    "total": Policy("retry", "failed"),
    "no_finish_reason": Policy("retry", "failed"),
    "no_resource": Policy("retry", "overloaded"),
    "other_finish_reason": Policy("retry", "ok"),
    "blank": Policy("retry", "ok"),
    "error_in_answer": Policy("retry", "failed"),
    "not_json": Policy("retry", "failed"),
    "malformed": Policy("retry", "failed"),
    "html": Policy("retry", "failed"),
    "length": Policy("dead", "ok", fallback=False),
    "content_filter": Policy("dead", "ok"),
    "too_large": Policy("dead", "ok", fallback=False),
    "schema": Policy("dead", "ok"),
}

_PAUSE = 1.0  # seconds, for a limiter that was resumed meanwhile
_HOPE: Sequence[Then] = ("pause", "wait", "retry", "dead")  # of several failures the most promising one decides


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one provider gave no answer, and the consequence. `after` is in seconds; None means the type's policy."""

    reason: str
    then: Then
    after: float | None = None


def judge(provider: str, error: ChatError) -> Failure:
    then, after = POLICIES[error.kind].then, error.after
    if error.again is not None and then != "pause":  # the provider knows better, except about its credit
        then = "dead" if not error.again else "retry" if then == "dead" else then
    if then == "wait" and after is None:
        after = random.uniform(3, 10)  # noqa: S311
    elif then == "pause":
        after = _PAUSE
    elif after is not None:
        after *= random.uniform(1, 1.1)  # noqa: S311 (not all at the same moment)
    return Failure(f"{provider}: {error} [{error.kind}]", then, after)


def conclude(failures: Sequence[Failure]) -> Retry | Fail:
    """The exception for an attempt when no provider of the chain answered."""
    reason = "; ".join(failure.reason for failure in failures)
    best = min(failures, key=lambda failure: _HOPE.index(failure.then))
    if best.then == "dead":
        return Fail(reason)
    return Retry(after=best.after, consumes_attempt=best.then == "retry", reason=reason)
