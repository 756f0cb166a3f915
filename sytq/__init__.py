"""sytq: an asynchronous task service. The names a plugin needs.

Owns nothing but the list of public names.
"""

from sytq.context import AsyncContext, Context, Transaction
from sytq.errors import Cancelled, Fail, Lost, Retry
from sytq.plugin import Backoff, Death, TaskType, task
from sytq.schedule import Schedule

__all__ = [
    "AsyncContext",
    "Backoff",
    "Cancelled",
    "Context",
    "Death",
    "Fail",
    "Lost",
    "Retry",
    "Schedule",
    "TaskType",
    "Transaction",
    "task",
]
__version__ = "0.1.0"
