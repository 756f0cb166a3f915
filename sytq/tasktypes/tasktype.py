"""The task type that an installation runs: its declaration with the configuration applied."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any

from pydantic import BaseModel

from sytq.blocks import Block, Fields, checked
from sytq.broker.limiter import MAX_LIMITERS, check_acquired_name, check_limiter_name
from sytq.errors import InvalidInput
from sytq.tasktypes.backoff import Backoff
from sytq.tasktypes.declaration import Options
from sytq.tasktypes.payload import validated

_MAX_SHOWN = 500  # characters of one line that a type shows of a task


@dataclass(frozen=True, kw_only=True)
class TaskType(Options):
    """A task type of this installation."""

    function: Callable[..., Any]
    retry: Backoff
    timeout: float
    config: Any = field(default_factory=dict)  # an instance of the model, else the keys as they are
    source: str = ""

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop rather than on a thread."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def max_duration(self) -> float:
        """The seconds after which a task has ended, if it waits for nothing."""
        policy = replace(self.retry, jitter=0)
        longest = math.inf if policy.max_age is None else float(policy.max_age) + self.timeout
        if policy.max_attempts is None:
            return longest
        pauses = sum(policy.delay(attempts) for attempts in range(1, policy.max_attempts))
        return min(longest, policy.max_attempts * self.timeout + pauses)

    def policy(self, payload: object, version: int | None = None) -> Backoff:
        """The policy of a task with this payload (parsed, or as submitted in that version)."""
        if self.retry_of is None:
            return self.retry
        try:
            parsed = payload if isinstance(payload, self.payload) else self.parse(payload, version)
        except Exception:  # it cannot be used, or `upgrade` fails: the run said so
            return self.retry
        return self.retry_of(parsed, self.retry)

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

    def limiter_names(self, payload: BaseModel) -> tuple[str, ...]:
        """The limiters that the attempts of a task with this payload begin with. Raises InvalidInput."""
        if self.limiters is None:
            return ()
        try:
            names = tuple(dict.fromkeys(self.limiters(payload)))
        except Exception as error:  # its text may hold a part of the payload
            why = f"type '{self.name}' cannot name its limiters: {type(error).__name__}"
            raise InvalidInput("payload", why) from None
        if len(names) > MAX_LIMITERS:
            raise InvalidInput("payload", f"type '{self.name}' names more than {MAX_LIMITERS} limiters")
        for name in names:
            _check_limiter(self.name, name)
        return names

    def blocks(self, payload: object, result: object, version: int | None = None) -> Sequence[Block]:
        """What `show` says of a task; nothing where the payload (as submitted) is not valid."""
        if self.show is None:
            return []
        try:
            said = self.show(self.parse(payload, version), result)
            return [Fields(dict(said))] if isinstance(said, Mapping) else checked(said)
        except InvalidInput:
            return []
        except Exception as error:  # what is wrong with it must not hide the task
            return [Fields({"show": f"failed: {type(error).__name__}"})]

    def shown(self, payload: object, result: object, version: int | None = None) -> dict[str, str]:
        """The fields among `blocks`, as short lines by name."""
        found = [block.values.items() for block in self.blocks(payload, result, version) if isinstance(block, Fields)]
        try:
            values = {str(name): str(value) for name, value in chain.from_iterable(found) if value is not None}
            return {name: " ".join(value.split())[:_MAX_SHOWN] for name, value in values.items()}
        except Exception as error:
            return {"show": f"failed: {type(error).__name__}"}

    def parse(self, payload: object, version: int | None = None) -> BaseModel:
        """Validate a payload; one that was accepted in an older version is upgraded first. None: the present one.

        Raises InvalidFields, and whatever `upgrade` does.
        """
        if version is not None and version < self.version and self.upgrade is not None:
            payload = self.upgrade(payload, version)
        return validated(self.payload, payload, "payload")


@lru_cache(maxsize=1000)
def _check_limiter(type_name: str, name: str) -> None:
    check_limiter_name(name)
    try:
        check_acquired_name(name)
    except ValueError as error:
        raise InvalidInput("payload", f"type '{type_name}': {error}") from None


def _bounded(key: str) -> str:
    """A key as its column takes it and tells it from others: MySQL takes no notice of spaces at the end."""
    fits = len(key) <= 255 and not key.endswith(" ")
    return key if fits else f"{key[:190]}#{hashlib.sha256(key.encode()).hexdigest()}"
