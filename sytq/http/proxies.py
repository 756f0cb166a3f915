"""The proxy that the environment names for a URL: curl's variables, and NO_PROXY in the forms of curl and of Go."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from sytq.config.urls import PROXY_FORM, check_proxy_url
from sytq.errors import ProxyFailed

_PORTS = {"http": 80, "https": 443}
_SEPARATOR = re.compile(r"[,\s]+")
#: A name with all below it, or an address; perhaps with a port.
_ENTRY = re.compile(r"(?:\*?\.)?(?P<host>\[[0-9a-f:.]+\]|[^\[\]:]+|[0-9a-f:.]+)(?::(?P<port>[0-9]+))?")


def environment_proxy(url: str) -> str | None:
    """Return the proxy for a URL, None where it is to be reached without one. Raises ProxyFailed."""
    parts, named = urlsplit(url), getproxies_environment()
    proxy = (named.get(parts.scheme) or named.get("all") or "").strip()
    port = parts.port or _PORTS.get(parts.scheme, 0)
    host, excluded = (parts.hostname or "").rstrip("."), _SEPARATOR.split(named.get("no", "").lower())
    if not proxy or any(_matches(host, port, entry) for entry in excluded):
        return None
    try:
        return check_proxy_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        raise ProxyFailed(f"the environment's proxy is not valid; valid: {PROXY_FORM}") from None


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    with suppress(ValueError):  # a path, or the host is a name
        if "/" in entry:
            return ip_address(host) in ip_network(entry, strict=False)
    found = _ENTRY.fullmatch(entry)
    if found is None or int(found["port"] or port) != port:
        return False
    name = found["host"].strip("[].")
    with suppress(ValueError):  # a name
        return ip_address(host) == ip_address(name)
    return host == name or host.endswith(f".{name}")
