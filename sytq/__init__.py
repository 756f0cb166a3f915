"""sytq: an asynchronous task service. The names a plugin needs.

Owns nothing but the list of public names.
"""

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
