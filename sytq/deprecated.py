"""Names of 0.1 that work until 0.3, each with a DeprecationWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def warn(old: str, new: str) -> None:
    """Warn the caller of the function that calls this one."""
    warnings.warn(f"{old} is now {new}; the old name goes with 0.3", DeprecationWarning, stacklevel=3)


def renamed_names(module: str, **names: Any) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that has objects by their old names too: Old=New."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warn(f"{module}.{name}", names[name].__name__)
        return names[name]

    return find


def renamed_arguments(**names: str) -> Callable[[T], T]:
    """Let a function, or a class's constructor, take keyword arguments by their old names too: old="new"."""

    def decorate(target: T) -> T:
        function: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for old in names.keys() & given.keys() if given else ():
                warn(f"{old}=", f"{names[old]}=")
                given[names[old]] = given.pop(old)
            return function(*args, **given)

        if isinstance(target, type):
            target.__init__ = call  # type: ignore[misc]
            return target
        return call  # type: ignore[return-value]

    return decorate


class OldContextMethods:
    """The limiter methods of both contexts by their old names."""

    def passage(self: Any, *gates: Any, units: int = 0) -> Any:
        warn("ctx.passage", "ctx.acquire")
        return self.acquire(*gates, cost=units)

    def close_gate(self: Any, name: str, reason: str, *, seconds: float | None = None, alert: bool = True) -> Any:
        warn("ctx.close_gate", "ctx.pause_limiter")
        return self.pause_limiter(name, reason, seconds=seconds, alert=alert)

    def open_gate(self: Any, name: str) -> Any:
        warn("ctx.open_gate", "ctx.resume_limiter")
        return self.resume_limiter(name)
