"""Compares clocks and versions of servers with this machine's clock and the oldest supported version."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding

_WARN, _FAIL = 1.0, 10.0  # seconds


def skew(ask: Callable[[], float]) -> float:
    """Seconds by which a server's clock is ahead of ours, from the fastest of three samples."""
    best = (float("inf"), 0.0)
    for _ in range(3):
        before = time.time()
        there = ask()
        after = time.time()
        best = min(best, (after - before, there - (before + after) / 2))
    return best[1]


def clock(check: str, ahead: float) -> Finding:
    said = f"{abs(ahead) * 1000:.0f} ms {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) < _WARN:
        return Finding(check, OK, said)
    verdict = FAIL if abs(ahead) >= _FAIL else WARN
    return Finding(check, verdict, said, "run an NTP client on both machines: task times come from both clocks")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
