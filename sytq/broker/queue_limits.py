"""What a queue may do at most, over all workers.

Owns the shape of a limit; fetch.lua keeps it, so that waiting for it costs no slot of a worker and no attempt.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """`running` tasks at once, and `starts` within any `window` seconds; 0 is no limit."""

    running: int = 0
    starts: int = 0
    window: float = 60.0
