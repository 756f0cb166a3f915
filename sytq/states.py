"""The words of a task's life: states, priorities, outcomes.

Owns these names, as they stand in SQL, Redis and every answer; must import nothing of sytq.
"""

from __future__ import annotations

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

#: Highest first: the order in which a worker looks.
PRIORITIES = ("urgent", "high", "normal", "low")
