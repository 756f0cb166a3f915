"""Resolution: a declaration and the configuration become a task type."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sytq.config import Settings, problems
from sytq.config import TaskType as Policy
from sytq.durations import parse_duration
from sytq.errors import ConfigError
from sytq.states import NAME, PRIORITIES
from sytq.tasktypes.backoff import Backoff
from sytq.tasktypes.declaration import Declaration, Options
from sytq.tasktypes.tasktype import TaskType

M = TypeVar("M", bound=BaseModel)


def resolve(declared: Declaration, settings: Settings) -> TaskType:
    """Return the type with its `types.<name>` section applied. Raises ConfigError, and what its functions raise."""
    options, name = declared.options, declared.name
    policy = settings.types.get(name) or Policy()
    queue, priority = policy.queue or options.queue, policy.priority or options.priority
    for each in (name, queue):
        if not NAME.fullmatch(each):
            raise ConfigError(
                f"task type '{name}': '{each}' is not a name; valid: a letter or _, then letters, digits,"
                " . _ - (64 at most)"
            )
    if priority not in PRIORITIES:
        raise ConfigError(f"task type '{name}': priority '{priority}' is not valid; valid: {', '.join(PRIORITIES)}")
    as_declared = {each.name: getattr(options, each.name) for each in dataclasses.fields(Options)}
    config = own_config(settings, name, options.config, policy.extra) if options.config else policy.extra
    changed = {"queue": queue, "priority": priority, "middleware": tuple(options.middleware)}
    jobs = settings.worker
    retry = options.retry or Backoff(first=jobs.retry_delay, max_attempts=jobs.retry_attempts + 1)
    retry = retry(settings) if callable(retry) else retry
    timeout = jobs.job_timeout if options.timeout is None else options.timeout
    seconds = parse_duration(timeout(settings) if callable(timeout) else timeout)
    return TaskType(
        **as_declared | changed | {"limiters": _limiters(options.limiters, settings=settings, config=config)},
        function=declared.function,
        source=declared.source,
        retry=dataclasses.replace(retry, **policy.retry.model_dump(exclude_none=True)),
        timeout=seconds if policy.timeout is None else float(policy.timeout),
        config=config,
    )


def _limiters(function: Callable[..., Sequence[str]] | None, **known: Any) -> Callable[..., Sequence[str]] | None:
    """Return the function of the payload alone: what it names of `known` is given."""
    if function is None:
        return None
    try:
        named = set(inspect.signature(function).parameters)
    except ValueError:  # such as attrgetter("hosts"), in Python 3.11
        return function
    return functools.partial(function, **{name: known[name] for name in named & set(known)})


def own_config(settings: Settings, name: str, model: type[M], given: dict[str, Any]) -> M:
    """Return a type's own keys as an instance of their model. Raises ConfigError naming each wrong key."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = problems.lines(error, settings.origins, model, ("types", name))
    raise ConfigError("\n".join(found))  # outside the except: its context would carry the raw values
