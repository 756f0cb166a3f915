"""States, priorities and names, as they stand in SQL, Redis and every response. Must import nothing of sytq."""

from __future__ import annotations

import re
from typing import Literal, get_args

QUEUED = "queued"  # waits in its stream
SCHEDULED = "scheduled"  # waits for its time, never started
RUNNING = "running"
RETRYING = "retrying"  # waits for its next attempt
SUCCEEDED = "succeeded"
DEAD = "dead"
CANCELLED = "cancelled"

UNFINISHED = (QUEUED, SCHEDULED, RUNNING, RETRYING)
TERMINAL = (SUCCEEDED, DEAD, CANCELLED)
STATES = UNFINISHED + TERMINAL

#: Highest first: the order in which a worker looks. Python shares one type between literals of the same words, so a
#: second one in another order would change this one's.
Priority = Literal["urgent", "high", "normal", "low"]
PRIORITIES: tuple[str, ...] = get_args(Priority)

#: How often each priority comes first, in sixteen turns: urgent nearly always, and low never starves.
WEIGHTS = {"urgent": 12, "high": 2, "normal": 1, "low": 1}

#: Of a task where neither its type nor its submission names one.
DEFAULT_QUEUE = "default"
DEFAULT_PRIORITY = "normal"

#: A valid name of a queue or task type: safe in a Redis key, a metric's label and a URL.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}")

#: A valid name of a limiter.
LIMITER_NAME = re.compile(r"[!-{}~]{1,300}")
