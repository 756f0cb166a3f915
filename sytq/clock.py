"""The time of the installation: the middle one of three clocks, this machine's, Redis' and the database's.

Whoever talks to a server reports what its clock says; nothing here asks. Times that leave the process, or that are
compared with those of another machine, come from here. Durations within the process are `time.monotonic()`'s.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Literal

import structlog

log = structlog.get_logger(__name__)

#: Seconds by which this machine's clock may be off before it is corrected. An answer that took longer tells nothing.
TOLERANCE = 1.0
#: Below this it is right again. Between the two nothing changes, so that nothing flaps.
_RIGHT = 0.5
#: Seconds by which a server's clock may differ and still be followed where no third clock decides (SQLite has none).
_FAR = 24 * 3600.0
#: Seconds after which what the servers said is forgotten: the machine may have been suspended since.
_KEPT = 600.0

_lock = threading.Lock()
_heard: dict[str, float] = {}  # by how much the clock of each server leads time.monotonic()
_right: tuple[float, float] | None = None  # the same of the right clock, and until when it holds
_corrected = False


def now() -> float:
    """Return the time in Unix seconds: this machine's unless it is off."""
    own, right = time.time(), _right
    if right is None:
        return own
    lead, until = right
    mine = time.monotonic()
    # Also where this machine's clock was set a moment ago: the next answer of a server decides who was right.
    return own if mine > until or abs(own - mine - lead) <= TOLERANCE else mine + lead


def utc() -> dt.datetime:
    """Return the same time as an aware datetime."""
    return dt.datetime.fromtimestamp(now(), dt.UTC)


def heard(server: Literal["redis", "database"], said: float, sent: float) -> None:
    """Note what a server's clock `said` (Unix seconds) in the answer to what was `sent` at that `time.monotonic()`."""
    global _right, _corrected
    mine = time.monotonic()
    if mine - sent > TOLERANCE:
        return
    with _lock:
        _heard[server] = said - (sent + mine) / 2
        own = time.time() - mine
        right = _middle(own, list(_heard.values()))
        off = abs(own - right) > (_RIGHT if _corrected else TOLERANCE)
        _right = (right if off else own), mine + _KEPT
        if off != _corrected:
            _corrected = off
            if off:
                log.warning("this machine's clock is off: times are corrected", ahead=round(own - right, 3))
            else:
                log.info("this machine's clock is right", ahead=round(own - right, 3))


def ahead() -> dict[str, float]:
    """By how many seconds this machine's clock leads that of each server."""
    own = time.time() - time.monotonic()
    with _lock:
        return {server: own - lead for server, lead in _heard.items()}


def forget() -> None:
    """Forget what the servers said: this machine's clock is the only one again."""
    global _right, _corrected
    with _lock:
        _heard.clear()
        _right, _corrected = None, False


def _middle(own: float, servers: list[float]) -> float:
    if len(servers) == 1:
        return servers[0] if abs(servers[0] - own) <= _FAR else own
    return sorted([own, *servers])[1]
