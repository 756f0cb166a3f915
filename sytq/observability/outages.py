"""Outages of Redis and of the database in the log: each kind of failure once, then with a count, and the end.

An outage of a minute is a thousand failures of a worker, and one fault.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any

import structlog

from sytq.errors import RedisUnavailable

#: Seconds until a failure is logged again, with the number of those between; doubled each time, up to the second.
_AGAIN, _RARELY = 30.0, 300.0
#: Seconds without a failure until an answer ends the outage, as clients fail and succeed side by side; doubled, up to
#: the second, for an outage that begins within `_SOON` of another's end.
_QUIET, _LONG_QUIET = 3.0, 30.0
_SOON = 60.0
_MOST_KINDS = 100
_CHANGING = re.compile(r"(?<!\d)(?!\d{4}(?!\d))\d+")  # ports, times, ids

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Logged:
    """When a kind of failure was logged, the seconds until it is again, and how many were not logged since."""

    at: float
    pause: float = _AGAIN
    more: int = 0


class Outage:
    """The failures of one peer, in this process."""

    def __init__(self, peer: str) -> None:
        self.since: float | None = None  # None while it answers
        self._peer = peer
        self._last = self._ended = float("-inf")
        self._quiet = _QUIET
        self._kinds: dict[tuple[str, str], _Logged] = {}
        self._lock = threading.Lock()

    def failed(self, logger: Any, event: str, error: BaseException, level: str, **fields: Any) -> None:
        """Log a failure, unless one of its kind was logged a moment ago."""
        now = time.monotonic()
        # Failures that differ are logged each, also where a number alone says it: MySQL's errors have four digits.
        kind = event, f"{type(error).__name__} {_CHANGING.sub('#', str(error))}"
        with self._lock:
            if self.since is None:
                self.since = now
                self._quiet = min(2 * self._quiet, _LONG_QUIET) if now - self._ended < _SOON else _QUIET
            self._last = now
            logged = self._kinds.get(kind)
            if logged is None:
                if len(self._kinds) >= _MOST_KINDS:
                    self._kinds.clear()
                self._kinds[kind] = _Logged(now)
            elif now - logged.at < logged.pause:
                logged.more += 1
                return
            else:
                fields |= {"more": logged.more, "within": round(now - logged.at, 1)}
                self._kinds[kind] = _Logged(now, min(2 * logged.pause, _RARELY))
        getattr(logger, level)(event, error=str(error), **fields)

    def answered(self) -> None:
        """Log the end of the outage, if there is one; call it after a success while `since` is set."""
        now = time.monotonic()
        with self._lock:
            if self.since is None or now - self._last < self._quiet:
                return
            lasted, more = self._last - self.since, sum(logged.more for logged in self._kinds.values())
            self.since, self._ended = None, now
            self._kinds.clear()
        log.info(f"{self._peer} answers again", unavailable=round(lasted, 1), more=more)


REDIS = Outage("Redis")
DATABASE = Outage("the database")


def log_failure(logger: Any, event: str, error: BaseException, level: str = "warning", **fields: Any) -> None:
    """Log that Redis or the database failed, unless it was logged a moment ago."""
    outage = REDIS if isinstance(error, RedisUnavailable) else DATABASE
    outage.failed(logger, event, error, level, **fields)
