"""Outbound HTTP, except to Redis and the database: the client, and the guard that decides which hosts it may reach.

Must not know tasks, queues or settings. Each name is imported when it is first used: only the client needs aiohttp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sytq.http.client import Answer, BlockingClient, Client
    from sytq.http.guard import Guard, parse_url
    from sytq.http.headers import MANAGED_HEADERS, check_headers
    from sytq.http.proxies import ProxyFailed
    from sytq.http.sessions import CertificateUnusable, NotHttp, UnknownHost
    from sytq.http.timing import Timing

__all__ = [
    "MANAGED_HEADERS",
    "Answer",
    "BlockingClient",
    "CertificateUnusable",
    "Client",
    "Guard",
    "NotHttp",
    "ProxyFailed",
    "Timing",
    "UnknownHost",
    "check_headers",
    "parse_url",
]

_HOMES = {
    "client": ("Answer", "BlockingClient", "Client"),
    "guard": ("Guard", "parse_url"),
    "headers": ("MANAGED_HEADERS", "check_headers"),
    "proxies": ("ProxyFailed",),
    "sessions": ("CertificateUnusable", "NotHttp", "UnknownHost"),
    "timing": ("Timing",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sytq.http' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(f"sytq.http.{_HOME[name]}"), name)
    return value
