"""What an attempt waited for, as its end event carries it: in the attempt's detail, under a key of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: The key in the detail; a name that no keyword of `ctx.detail` has.
WAITS = "sytq:waits"
#: Shorter waits are not kept: a round trip to Redis, and the difference of two clocks.
_MIN_PERMIT_MS, _MIN_QUEUED_MS = 50, 1000
#: An attempt may acquire thousands of permits; the first waits are kept.
_MAX_PERMITS = 20


class Waits:
    """Of one attempt. `entered_ms` is when the task entered its stream for it, by Redis' clock; None is not known."""

    def __init__(self, created_ms: int, entry: bytes) -> None:
        entered = entry.partition(b"-")[0]
        self._created_ms = created_ms
        self._entered_ms = int(entered) if entered.isdigit() else None
        self._permits: list[dict[str, Any]] = []
        self._then: dict[str, Any] | None = None
        self._limiter: str | None = None

    def fetched(self, limiter: str) -> None:
        """The task waited for this limiter before it was fetched."""
        self._limiter = limiter

    def granted(self, limiters: Iterable[str], at_ms: int, took_ms: int) -> None:
        """A permit of these was acquired, after `took_ms` that began `at_ms` after the attempt's start."""
        self._then = None  # the task has left the wait queue
        if took_ms > _MIN_PERMIT_MS and len(self._permits) < _MAX_PERMITS:
            self._permits.append({"limiters": list(limiters), "at_ms": at_ms, "ms": took_ms})

    def refused(self, **by: str) -> None:
        """The task waits for this `limiter`, or for this `task`, when the attempt ends now."""
        self._then = by

    def recorded(self, started_ms: int, *, runs_again: bool) -> dict[str, Any]:
        """Return what to add to the attempt's detail: nothing when it began at once and waited for nothing."""
        waits: dict[str, Any] = {}
        # An entry's number is no time where another program chose it.
        if self._entered_ms is not None and self._created_ms + _MIN_QUEUED_MS < self._entered_ms <= started_ms:
            waits["queued_ms"] = self._entered_ms
            if self._limiter:
                waits["limiter"] = self._limiter
        if self._permits:
            waits["permits"] = self._permits
        if self._then and runs_again:
            waits["then"] = self._then
        return {WAITS: waits} if waits else {}
