"""Decides what each failed call leads to, for one call and for a chain of providers; docs/llm.md explains the table."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sytq import Fail, Retry

from .answer import ChatError, Kind
from .targets import Target

Then = Literal["dead", "retry", "wait", "pause"]
Report = Literal["ok", "overloaded", "failed", "ignored"]


@dataclass(frozen=True, slots=True)
class Policy:
    """`then` ends the attempt, after the `fallback` if there is one. `report` is for the limiters.

    A pause of `seconds` names what a person has `todo` to the provider `name`; `of_model` pauses the model alone.
    """

    then: Then
    report: Report
    fallback: bool = True
    todo: str = ""
    of_model: bool = False
    seconds: float = 300.0


POLICIES: Mapping[Kind, Policy] = {
    "rejected": Policy("dead", "ok", fallback=False),
    "unauthorized": Policy("pause", "ignored", todo="renew providers.{name}.api_key or the account's rights"),
    "no_credit": Policy("pause", "ignored", todo="pay, or raise the limit at the provider"),
    "no_model": Policy("pause", "ignored", todo="name a model that providers.{name} has", of_model=True),
    "bad_parameter": Policy("pause", "ignored", todo="correct extra and max_tokens of the model", of_model=True),
    "no_path": Policy("pause", "ignored", todo="correct providers.{name}.base_url"),
    "tls": Policy("pause", "ignored", todo="mend it here or at the provider", seconds=60.0),
    "proxy": Policy("pause", "ignored", todo="correct providers.{name}.proxy", seconds=60.0),
    "redirect": Policy("pause", "ignored", todo="correct providers.{name}.base_url"),
    "rate_limited": Policy("wait", "overloaded"),
    "overloaded": Policy("retry", "overloaded"),
    "unavailable": Policy("retry", "failed"),
    "network": Policy("retry", "failed"),
    "broken_off": Policy("retry", "failed"),
    "first_content": Policy("retry", "failed"),
    "silence": Policy("retry", "failed"),
    "total": Policy("retry", "failed"),
    "no_finish_reason": Policy("retry", "failed"),
    "no_resource": Policy("retry", "overloaded"),
    "other_finish_reason": Policy("dead", "ok"),
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

#: Seconds between two calls of a task that is asked to wait again and again, unless the provider asks for more; and
#: in all.
_FARTHEST, _PATIENT = 60.0, 24 * 3600.0
_PAUSE = 1.0  # seconds, for a limiter that was resumed meanwhile
_REASON = 255  # characters of the reason of a pause
_HOPE: Sequence[Then] = ("pause", "wait", "retry", "dead")  # of several failures the most promising one decides


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one provider gave no answer, and the consequence. `after` is in seconds; None means the type's policy."""

    reason: str
    then: Then
    after: float | None = None


def judge(target: Target, error: ChatError) -> Failure:
    """What a failed call leads to."""
    then, after = consequence(target, error), error.after
    if error.again is not None and then != "pause":  # the provider knows better, except about its credit
        then = "dead" if not error.again else "retry" if then == "dead" else then
    if then == "pause":
        after = _PAUSE
    elif after is not None:
        after *= random.uniform(1, 1.1)  # noqa: S311 (not all at the same moment)
    return Failure(f"{target.name}: {describe(target, error)}", then, after)


def consequence(target: Target, error: ChatError) -> Then:
    """What ends the attempt. A model that only the task names is its caller's matter: nothing is paused for it."""
    policy = POLICIES[error.kind]
    return "dead" if policy.of_model and not target.configured else policy.then


def describe(target: Target, error: ChatError) -> str:
    """The error for people, with its name, and what to do about a pause."""
    said, end = str(error), f" [{error.kind}]"
    if consequence(target, error) == "pause":
        end += f": {POLICIES[error.kind].todo.format(name=target.name)}"
        said = said if len(said + end) <= _REASON else f"{said[: _REASON - len(end) - 1]}…"
    return said + end


def spaced(error: ChatError, seconds: float) -> ChatError:
    """A request to wait that came `error.times` times in `seconds`: obeyed with growing distance, and not for ever."""
    if seconds > _PATIENT:
        said = f"{error} ({error.times} times in {seconds / 3600:.0f} h)"
        return ChatError(error.kind, said, status=error.status, again=False, times=error.times)
    after = random.uniform(3, 9) if error.after is None else error.after  # noqa: S311
    if error.times > 1:
        after = min(max(after, 1.0) * 2 ** min(error.times - 1, 16), max(after, _FARTHEST))
    error.after = after
    return error


def conclude(failures: Sequence[Failure], paid: bool) -> Retry | Fail:
    """The exception for an attempt when no provider of the chain answered.

    An attempt that `paid` for an answer is used up whatever failed last: waiting would pay for that answer again.
    """
    reason = "; ".join(failure.reason for failure in failures)
    best = min(failures, key=lambda failure: _HOPE.index(failure.then))
    if best.then == "dead":
        return Fail(reason)
    return Retry(after=best.after, consumes_attempt=paid or best.then == "retry", reason=reason)
