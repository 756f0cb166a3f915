"""Limits of a queue over all workers; fetch.lua enforces them, so waiting uses neither a slot nor an attempt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """`running` tasks at once, and `starts` within any `window` seconds; 0 is no limit."""

    running: int = 0
    starts: int = 0
    window: float = 60.0
