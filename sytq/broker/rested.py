"""Connections to Redis over TCP that are replaced when they have rested for too long."""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.sentinel import SentinelManagedConnection

from sytq.tcp import KEEP_ALIVE, RESTED

#: redis-py notes the time of a health check with each answer; here a connection is replaced then and never checked.
OPTIONS: dict[str, Any] = {
    "health_check_interval": RESTED,
    "socket_keepalive": True,
    "socket_keepalive_options": KEEP_ALIVE,
}


class _Replaced:
    """The pool connects a connection whenever it gives it out."""

    _sock: Any
    next_health_check: Any

    def connect(self) -> None:
        if self._sock is not None and time.monotonic() > self.next_health_check:
            self.disconnect()  # type: ignore[attr-defined]
        super().connect()  # type: ignore[misc]


class Connection(_Replaced, redis.Connection):
    """To a server or a node of a cluster."""


class SSLConnection(_Replaced, redis.SSLConnection):
    """The same with TLS."""


class SentinelConnection(_Replaced, SentinelManagedConnection):
    """To the master that the Sentinels name."""
