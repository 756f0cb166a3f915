"""Failed logins of an address: a burst is allowed, and then one more from time to time."""

from __future__ import annotations

import ipaddress
import math
import time

import falcon

from sytq.api.forwarded import address_in

#: Wrong guesses of an address: the burst, and the seconds after which one more is allowed.
_MAX_GUESSES, _GUESS_SECONDS = 50, 6.0
_MAX_ADDRESSES = 10_000


class Guesses:
    """Belongs to one event loop. `client` is an ASGI peer."""

    def __init__(self) -> None:
        self._clear_at: dict[str, float] = {}

    def check(self, client: object) -> None:
        """Raise HTTPTooManyRequests if the client has to wait."""
        ahead = self._clear_at.get(address_of(client), 0.0) - time.monotonic()
        if ahead > (_MAX_GUESSES - 1) * _GUESS_SECONDS:
            wait = math.ceil(ahead - (_MAX_GUESSES - 1) * _GUESS_SECONDS)
            said = "too many failed logins from this address; wait"
            raise falcon.HTTPTooManyRequests(description=said, retry_after=wait)

    def count(self, client: object) -> None:
        """Count one failed login."""
        address, now = address_of(client), time.monotonic()
        clear_at = max(self._clear_at.pop(address, 0.0), now) + _GUESS_SECONDS
        if len(self._clear_at) >= _MAX_ADDRESSES:
            del self._clear_at[next(iter(self._clear_at))]
        self._clear_at[address] = clear_at


def address_of(client: object) -> str:
    """Return the address of a client, for IPv6 its /64 network (one customer)."""
    address = address_in(str(client[0])) if isinstance(client, tuple | list) and client else None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or "local")
