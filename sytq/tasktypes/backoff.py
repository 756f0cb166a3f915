"""Backoff: when a failed task runs again, and when it does not."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sytq.durations import parse_duration


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a failed task runs again: `first`, then `factor` times longer each time up to `max`.

    Retries end after `max_attempts` attempts or at `max_age` since creation, whichever comes first; None is no bound,
    but one of the two must be given. `jitter` is the random part of each delay (0 none, 1 full).
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
        first, maximum = float(self.first), float(self.max)
        try:
            full = min(first * self.factor ** max(attempts - 1, 0), maximum)
        except OverflowError:
            full = maximum if first else 0.0
        return full * (1 - self.jitter * random.random())  # noqa: S311

    def ended(self, attempts: int, age: float) -> str | None:
        """Return why there is no next attempt after `attempts` and `age` seconds, or None."""
        if self.max_attempts is not None and attempts >= self.max_attempts:
            return f"failed after {attempts} attempt{'s' if attempts != 1 else ''}"
        if self.max_age is not None and age >= float(self.max_age):
            return f"failed for longer than {float(self.max_age):g} s ({attempts} attempts)"
        return None
