"""What a trusted proxy says about a request: X-Forwarded-For, -Proto, -Host and -Prefix, put into the ASGI scope.

From other peers these fields are ignored. RFC 7239's `Forwarded` is not read: two sources could contradict each other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sytq.config.values import BASE_PATH

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The client of a request whose proxy names none that can be read: an address of nobody, which is not loopback.
UNKNOWN = "0.0.0.0"  # noqa: S104 (not bound)
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?")
_FOR, _PROTO, _HOST_NAME, _PREFIX = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix"
_NAMES = frozenset((_FOR, _PROTO, _HOST_NAME, _PREFIX))
#: Of a chain of proxies; a longer list is not read.
_MAX_HOPS = 50


class Forwarded:
    """Believes the peers in `trusted`; the peer of a unix socket is 127.0.0.1.

    `base_path` is the prefix of links in place of the proxy's, and is removed from paths whose proxy keeps it.
    """

    def __init__(self, trusted: Sequence[Network], base_path: str) -> None:
        self._trusted = tuple(trusted)
        self._base_path = base_path
        self._is_trusted = lru_cache(maxsize=1000)(self._in_networks)

    def apply(self, scope: dict[str, Any]) -> None:
        """Set client, scheme, Host, root_path and path of the scope to those that the client has sent."""
        prefix = self._base_path
        if self._trusted and self._is_trusted(_peer(scope)):
            fields = _last_fields(scope["headers"])
            if _FOR in fields:
                scope["client"] = (self._client(fields[_FOR]), 0)
            if (scheme := _last(fields.get(_PROTO, ""))) in ("http", "https"):
                scope["scheme"] = scheme
            if _HOST.fullmatch(host := _last(fields.get(_HOST_NAME, ""))):
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope["headers"] = [(b"host", host.encode()), *others]
            given = fields.get(_PREFIX, "").rstrip("/")
            if not prefix and len(given) <= 200 and re.fullmatch(BASE_PATH, given):
                prefix = given
        if prefix:
            scope["root_path"] = prefix
            if scope["path"] == prefix or scope["path"].startswith(f"{prefix}/"):
                scope["path"] = scope["path"][len(prefix) :] or "/"

    def _client(self, addresses: str) -> str:
        """The last address that is no trusted proxy; the proxies before it may have made up the others."""
        address = UNKNOWN
        for said in reversed(addresses.split(",")[-_MAX_HOPS:]):
            address = _address(said.strip())
            if not self._is_trusted(address):
                return address
        return address

    def _in_networks(self, text: str) -> bool:
        address = address_in(text)
        return address is not None and any(address in network for network in self._trusted)


def names_remote_client(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a forwarding field names an address that is not loopback: a proxy serves other machines."""
    said = [value for name, value in headers if name == _FOR]
    addresses = (_address(one.strip()) for value in said for one in value.decode("latin-1").split(","))
    return any(not ipaddress.ip_address(address).is_loopback for address in addresses)


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "127.0.0.1"


def _last_fields(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """The forwarding fields of a request; repeated fields are one list (RFC 9110, 5.3)."""
    fields: dict[bytes, str] = {}
    for name, value in headers:
        if name in _NAMES:
            text = value.decode("latin-1")
            fields[name] = f"{fields[name]},{text}" if name in fields else text
    return fields


def _last(values: str) -> str:
    """The value of the nearest proxy, which is trusted; those before it may be the client's own."""
    return values.rpartition(",")[2].strip()


def _address(text: str) -> str:
    """An address, without the port that some proxies add; UNKNOWN where there is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return str(address_in(text) or UNKNOWN)


@lru_cache(maxsize=1000)
def address_in(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in a text, without its zone, and the IPv4 one that an IPv6 address carries; None where it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
