"""TCP keep-alive of connections to database, Redis and HTTP peers, and for how long one may rest."""

from __future__ import annotations

import socket
import sys
from typing import Any

#: Seconds after which an unused connection is replaced. A firewall or balancer on the way may have forgotten it without
#: a word, and would swallow what is sent. Connecting again costs milliseconds, waiting for that answer seconds.
RESTED = 10.0
if sys.platform == "darwin":
    _IDLE = socket.TCP_KEEPALIVE
else:
    _IDLE = socket.TCP_KEEPIDLE
#: Option -> seconds or number. Probes keep a connection known on the way; a peer that is gone is noticed after 30 s.
KEEP_ALIVE = {_IDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


def keep_alive(connection: socket.socket) -> None:
    """Turn the probes on, for a TCP socket."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def client_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket with probes for an address as getaddrinfo gives it; aiohttp's `socket_factory`."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    keep_alive(made)
    return made
