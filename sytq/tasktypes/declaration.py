"""The task contract: what a task type is.

Owns `task`, `Backoff` and how a payload is checked and written. Must not know which types there are (registry.py),
nor how tasks are carried or run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from sytq.config import Settings
from sytq.config import TaskType as Policy
from sytq.durations import parse_duration
from sytq.errors import InvalidFields, InvalidInput
from sytq.schedule import Schedule

_MOST_ERRORS = 20
_MOST_SHOWN = 500  # characters of one line that a type shows of a task
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a failed task runs again: `first`, then `factor` times longer each time up to `max`.

    It ends after `max_attempts` starts or at `max_age` since creation, whichever comes first; None is no bound,
    but one of the two must be given. `jitter` is the part of each delay that is random (0 none, 1 full).
    Durations are seconds or text such as "10s".
    """

    first: float | str = "1s"
    factor: float = 2.0
    max: float | str = "10m"
    max_attempts: int | None = None
    max_age: float | str | None = None
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("first", "max", "max_age"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, parse_duration(value))
        if self.max_attempts is None and self.max_age is None:
            raise ValueError("Backoff: one of max_attempts and max_age must be given, or it never ends")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"Backoff: jitter must be between 0 and 1, not {self.jitter}")

    def delay(self, attempts: int) -> float:
        """Return the seconds to wait after `attempts` failed attempts."""
        first, most = float(self.first), float(self.max)
        try:
            full = min(first * self.factor ** max(attempts - 1, 0), most)
        except OverflowError:
            full = most if first else 0.0
        return full * (1 - self.jitter * random.random())  # noqa: S311

    def ended(self, attempts: int, age: float) -> str | None:
        """Return why there is no next attempt after `attempts` and `age` seconds, or None."""
        if self.max_attempts is not None and attempts >= self.max_attempts:
            return f"failed after {attempts} attempt{'s' if attempts != 1 else ''}"
        if self.max_age is not None and age >= float(self.max_age):
            return f"failed for longer than {float(self.max_age):g} s ({attempts} attempts)"
        return None


@dataclass(frozen=True)
class TaskType:
    """A declared task type. Calling it calls its function."""

    name: str
    function: Callable[..., Any]
    payload: type[BaseModel]
    retry: Backoff | Callable[[Settings], Backoff]
    timeout: float | str | Callable[[Settings], float]
    queue: str
    priority: str
    on_dead: Callable[..., Any] | None = None
    schedule: Schedule | None = None
    unique: Callable[[Any], str] | None = None
    internal: bool = False
    admin_only: bool = False
    config_model: type[BaseModel] | None = None
    config: Any = field(default_factory=dict)  # an instance of the model, else the keys as they are
    url: Callable[[Any], str] | None = None
    order: Callable[[Any], str | None] | None = None
    retry_of: Callable[[Any, Backoff], Backoff] | None = None
    version: int = 1
    upgrade: Callable[[Any, int], Any] | None = None
    middleware: Sequence[Callable[[Any, Any], Any]] = ()
    show: Callable[[Any, Any], Mapping[str, object]] | None = None
    source: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop rather than on a thread."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def backoff(self) -> Backoff:
        """The policy of a type that the registry has resolved."""
        assert isinstance(self.retry, Backoff)
        return self.retry

    @property
    def seconds(self) -> float:
        """The time limit of one run of a type that the registry has resolved."""
        assert isinstance(self.timeout, float)
        return self.timeout

    @property
    def longest(self) -> float:
        """The seconds after which a task of a resolved type has ended, if it waits for nobody."""
        policy = replace(self.backoff, jitter=0)
        longest = math.inf if policy.max_age is None else float(policy.max_age) + self.seconds
        if policy.max_attempts is None:
            return longest
        pauses = sum(policy.delay(attempts) for attempts in range(1, policy.max_attempts))
        return min(longest, policy.max_attempts * self.seconds + pauses)

    def policy(self, payload: object, version: int | None = None) -> Backoff:
        """The policy of a task with this payload (parsed, or as submitted in that version)."""
        if self.retry_of is None:
            return self.backoff
        try:
            parsed = payload if isinstance(payload, self.payload) else self.parse(payload, version)
        except Exception:  # it cannot be used, or `upgrade` fails: the run said so
            return self.backoff
        return self.retry_of(parsed, self.backoff)

    def unique_key(self, payload: BaseModel) -> str | None:
        """The key of a task with this payload, over all types; None when the type declares none."""
        return None if self.unique is None else _bounded(f"{self.name}:{self.unique(payload)}")

    def owners_key(self, owner: str | None, key: str) -> str:
        """A key that a caller chose, over all types: those of two owners are never the same."""
        name = (owner or "").replace("%", "%25").replace(":", "%3A")
        return _bounded(f"{self.name}:{name}:{key}")

    def ordering_key(self, payload: BaseModel, owner: str | None) -> str | None:
        """The key of the tasks that run one after the other; those of two owners never wait for each other."""
        key = self.order(payload) if self.order is not None else None
        return None if key is None else self.owners_key(owner, key)

    def shown(self, payload: object, result: object, version: int | None = None) -> dict[str, str]:
        """What `show` says of a task, as short lines by name; none where the payload (as submitted) is not valid."""
        if self.show is None:
            return {}
        try:
            said = self.show(self.parse(payload, version), result).items()
            return {str(name): " ".join(str(value).split())[:_MOST_SHOWN] for name, value in said if value is not None}
        except InvalidInput:
            return {}
        except Exception as error:  # what is wrong with it must not hide the task
            return {"show": f"failed: {type(error).__name__}"}

    def parse(self, payload: object, version: int | None = None) -> BaseModel:
        """Validate a payload; one that was accepted in an older version is upgraded first. None: the present one.

        Raises InvalidFields, and whatever `upgrade` does.
        """
        if version is not None and version < self.version and self.upgrade is not None:
            payload = self.upgrade(payload, version)
        return validated(self.payload, payload, "payload")


def _bounded(key: str) -> str:
    """A key as its column takes it and tells it from others: MySQL takes no notice of spaces at the end."""
    fits = len(key) <= 255 and not key.endswith(" ")
    return key if fits else f"{key[:190]}#{hashlib.sha256(key.encode()).hexdigest()}"


def task(
    name: str,
    *,
    payload: type[BaseModel],
    retry: Backoff | Callable[[Settings], Backoff] | None = None,
    timeout: float | str | Callable[[Settings], float] | None = None,
    queue: str = "default",
    priority: str = "normal",
    on_dead: Callable[..., Any] | None = None,
    schedule: Schedule | None = None,
    unique: Callable[[Any], str] | None = None,
    config: type[BaseModel] | None = None,
    url: Callable[[Any], str] | None = None,
    order: Callable[[Any], str | None] | None = None,
    retry_of: Callable[[Any, Backoff], Backoff] | None = None,
    internal: bool = False,
    admin_only: bool = False,
    version: int = 1,
    upgrade: Callable[[Any, int], Any] | None = None,
    middleware: Sequence[Callable[[Any, Any], Any]] = (),
    show: Callable[[Any, Any], Mapping[str, object]] | None = None,
) -> Callable[[Callable[..., Any]], TaskType]:
    """Declare a task type: `function(ctx, payload)`, plain or `async`, returning a JSON value or None.

    `retry` and `timeout` may be functions of the settings; without them they are contract D's job settings.
    `on_dead(ctx, dead)` runs, as a task of its own, once a task of this type is dead or cancelled; it is
    of the same kind (plain or async) as the function, and `dead` is a `Death`. With `schedule` it is submitted
    at the schedule's times; `schedules.<name>` in the configuration replaces or ends that. `unique(payload)` is a
    key that one unfinished task of the type has at most: a second submission answers with the first one's id.
    `config` is a model of the keys of its own below `types.<name>`: checked at the start, it is `ctx.config`.
    `url(payload)` is the caller's URL that the task will call: a submission with one that the guard refuses is refused.
    `order(payload)` is a key (or None) whose tasks a function that awaits `ctx.turn()` runs one after the other.
    `retry_of(payload, policy)` is the policy of one task, made from that of the type.
    An `internal` type is submitted by the service itself and by no client. One that is `admin_only`
    works on the whole installation, whoever owns what it finds: by HTTP only callers with the scope admin submit it.
    `version` is that of the payload's form, from 1. A task keeps the one it was accepted in: of an older one
    `upgrade(payload, version)` makes the present form, as a JSON value, at each run; a newer one waits for a worker
    that knows it.
    `middleware` are functions of `(ctx, payload)` that return a context manager (an async one for an async type): every
    run is within them, the first outermost.
    `show(payload, result)` says in a few short texts, by their names, what a person wants to see of a task; the result
    is None before there is one.
    """

    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"task type '{name}': version {version!r} is not valid; valid: a whole number from 1")
    if upgrade is not None and version == 1:
        raise ValueError(f"task type '{name}': version 1 has no older one for `upgrade`; valid: a version from 2")
    taken = set(config.model_fields) & set(Policy.model_fields) if config else ()
    if taken:
        raise ValueError(f"task type '{name}': its config cannot have '{min(taken)}', which is a key of the policy")

    def declare(function: Callable[..., Any]) -> TaskType:
        return TaskType(
            name=name,
            function=function,
            payload=payload,
            retry=retry or _job_retry,
            timeout=timeout if timeout is not None else _job_timeout,
            queue=queue,
            priority=priority,
            on_dead=on_dead,
            schedule=schedule,
            unique=unique,
            config_model=config,
            url=url,
            order=order,
            retry_of=retry_of,
            internal=internal,
            admin_only=admin_only,
            version=version,
            upgrade=upgrade,
            middleware=tuple(middleware),
            show=show,
            source=inspect.getsourcefile(function) or function.__module__,
        )

    return declare


class Death(BaseModel):
    """What `on_dead` receives: the dead task's id, its payload as submitted (in that version), its last error and its
    attempts."""

    task_id: str
    payload: Any
    version: int | None = None
    error: str | None = None
    attempts: int = 0
    cancelled: bool = False


def _job_retry(settings: Settings) -> Backoff:
    return Backoff(first=settings.worker.retry_delay, max_attempts=settings.worker.retry_attempts + 1)


def _job_timeout(settings: Settings) -> float:
    return settings.worker.job_timeout


def validated(model: type[M], value: object, whole: str) -> M:
    """The value as the model has it. Raises InvalidFields, in which `whole` names the value itself."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:_MOST_ERRORS]
        raise InvalidFields(
            [(".".join(map(str, each["loc"])) or whole, each["msg"].removeprefix("Value error, ")) for each in found]
        ) from None


def written(payload: BaseModel) -> str:
    """A payload as the ledger has it: JSON text of what was given, without the defaults."""
    try:
        return payload.model_dump_json(exclude_unset=True)
    except PydanticSerializationError:  # half of a surrogate pair
        return encode(payload.model_dump(mode="json", exclude_unset=True))


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(value: object) -> str:
    """A payload or result as JSON text that is UTF-8. Raises ValueError for what JSON cannot say (NaN included)."""
    text = _ENCODER.encode(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: only an escape can say it
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text
