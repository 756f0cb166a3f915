"""sytq: an asynchronous task service. The names a plugin needs.

Owns nothing but the list of public names, each imported when it is first used: the command line starts without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sytq.broker.gates import Breaker, Gate, Passage
    from sytq.context import AsyncContext, Context
    from sytq.errors import Cancelled, Fail, Lost, Retry, Waiting
    from sytq.meter import Counter, Histogram
    from sytq.plugin import Backoff, Death, TaskType, task
    from sytq.schedule import Schedule
    from sytq.transaction import Transaction
    from sytq.tree import Outcome

__all__ = [
    "AsyncContext",
    "Backoff",
    "Breaker",
    "Cancelled",
    "Context",
    "Counter",
    "Death",
    "Fail",
    "Gate",
    "Histogram",
    "Lost",
    "Outcome",
    "Passage",
    "Retry",
    "Schedule",
    "TaskType",
    "Transaction",
    "Waiting",
    "task",
]
__version__ = "0.1.0"

_HOMES = {
    "broker.gates": ("Breaker", "Gate", "Passage"),
    "context": ("AsyncContext", "Context"),
    "errors": ("Cancelled", "Fail", "Lost", "Retry", "Waiting"),
    "meter": ("Counter", "Histogram"),
    "plugin": ("Backoff", "Death", "TaskType", "task"),
    "schedule": ("Schedule",),
    "transaction": ("Transaction",),
    "tree": ("Outcome",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sytq' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(f"sytq.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
