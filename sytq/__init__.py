"""sytq: an asynchronous task service. The names a plugin needs, each imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sytq.broker.limiter import Breaker, Limiter, Permit
    from sytq.errors import Cancelled, Fail, Lost, Retry, Waiting
    from sytq.executor.async_context import AsyncContext
    from sytq.executor.context import Context
    from sytq.executor.transaction import Transaction
    from sytq.observability.metrics import Counter, Histogram
    from sytq.plugins import Command, DashboardPage, Explanation, Plugin
    from sytq.schedule import Schedule
    from sytq.service.dashboard_context import DashboardContext
    from sytq.service.tree import Outcome
    from sytq.tasktypes.backoff import Backoff
    from sytq.tasktypes.declaration import Death, Declaration, task
    from sytq.tasktypes.tasktype import TaskType

__all__ = [
    "AsyncContext", "Backoff", "Breaker", "Cancelled", "Command", "Context", "Counter", "DashboardContext",
    "DashboardPage", "Death", "Declaration", "Explanation", "Fail", "Histogram", "Limiter", "Lost", "Outcome", "Permit",
    "Plugin", "Retry", "Schedule", "TaskType", "Transaction", "Waiting", "task",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    "broker.limiter": ("Breaker", "Limiter", "Permit"),
    "executor.async_context": ("AsyncContext",),
    "executor.context": ("Context",),
    "errors": ("Cancelled", "Fail", "Lost", "Retry", "Waiting"),
    "observability.metrics": ("Counter", "Histogram"),
    "tasktypes.backoff": ("Backoff",),
    "tasktypes.declaration": ("Death", "Declaration", "task"),
    "tasktypes.tasktype": ("TaskType",),
    "plugins": ("Command", "DashboardPage", "Explanation", "Plugin"),
    "schedule": ("Schedule",),
    "executor.transaction": ("Transaction",),
    "service.dashboard_context": ("DashboardContext",),
    "service.tree": ("Outcome",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
#: Names before 0.2, which go with 0.3.
_DEPRECATED = {"Gate": "Limiter", "Passage": "Permit"}


def __getattr__(name: str) -> Any:
    if name in _DEPRECATED:
        importlib.import_module("sytq.deprecated").warn(f"sytq.{name}", f"sytq.{_DEPRECATED[name]}")
        name = _DEPRECATED[name]
    if name not in _HOME:
        raise AttributeError(f"module 'sytq' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(f"sytq.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
