"""One Redis serves one ledger: how each is named, and when a second one may take the place of the first."""

from __future__ import annotations

import ipaddress
import socket
import time
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

#: Seconds between two signs that a pair is alive; each worker looks as often.
RENEWED = 2.0
#: Seconds of silence after which a store with the same identity or address is taken for the same one, emptied or moved.
NEAR = 6.0
#: Seconds of silence after which any other store takes over.
FAR = 30.0


@dataclass(frozen=True, slots=True)
class Partner:
    """The other store of a pair: its identity and address, and the worker that named it last, `silent` seconds ago."""

    id: str
    place: str
    worker: str
    at: str  # as the store that remembers it has written it
    silent: float


@dataclass(frozen=True, slots=True)
class Half:
    """What a store says of itself: its identity, the pair's latest beat, its partner, and one that was refused."""

    id: str
    beat: int
    partner: Partner | None = None
    refused: Partner | None = None


class Silence:
    """Whether a partner is silent for long enough that another may take its place.

    The clock of the store that remembers it must say so, and this process must have seen it: after an outage of the
    store everybody looks silent.
    """

    def __init__(self) -> None:
        self._at: str | None = None
        self._since = 0.0
        self._first = True
        self.spoke = False  # between the last two looks

    def lasts(self, partner: Partner, *, near: bool) -> bool:
        """Look at a partner that is not ours."""
        self.spoke = self._at is not None and self._at != partner.at
        if self._at != partner.at:
            self._at = partner.at
            # At the start nobody here has interrupted anything: an emptied Redis goes on at once.
            at_once = near and self._first and partner.silent >= NEAR
            self._since = float("-inf") if at_once else time.monotonic()
        self._first = False
        seen = time.monotonic() - self._since
        # Less than none: that clock was set back, and says nothing for as long.
        silent = partner.silent if partner.silent >= 0 else seen
        return silent >= (NEAR if near else FAR) and seen >= NEAR

    def forget(self) -> None:
        """Begin to look anew: the store did not answer, or the partner is ours."""
        self._at, self.spoke = None, False


def redis_place(url: str, prefix: str) -> str:
    """The address of a Redis without its login, and the prefix of the keys."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    place = f"{hosts}{parts.path}" if hosts else parts.path
    if parts.scheme in ("redis", "rediss") and parts.path in ("", "/"):
        place = f"{hosts}/0"
    return f"{place}, prefix {prefix}{_here(parts.hostname)}"


def database_place(url: str) -> str:
    """The address of a database without its login."""
    parts = urlsplit(url)
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else unquote(parts.path[1:])
    return f"{place}{_here(parts.hostname)}"


def _here(host: str | None) -> str:
    """What makes an address that means another machine elsewhere unique."""
    try:
        local = host is None or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    return f", on {socket.gethostname()}" if local else ""
