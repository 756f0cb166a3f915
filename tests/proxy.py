"""A TCP proxy in front of a test's Redis or database that breaks the network on demand.

Faults are cut connections, frozen and forgotten ones, a lost reply and latency. The proxy does not parse the protocol:
it finds a request by a substring.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field

from tests.servers import free_port


@dataclass
class LostReplies:
    """The replies to the next `times` requests that hold `request` vanish, and their connections with them.

    With `reply` it begins with the first reply that holds that text.
    """

    request: bytes
    times: int
    reply: bytes = b""
    lost: int = 0

    @property
    def done(self) -> bool:
        return self.lost == self.times


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    client: socket.socket
    server: socket.socket
    losing: LostReplies | None = None
    forgotten: bool = False
    seen: bytes = field(default=b"")

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it; close() alone would not
            end.close()


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`upstream`, without faults until one is set."""

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        self._upstream = upstream
        self._latency = 0.0
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._losses: list[LostReplies] = []
        self._listener: socket.socket | None = None
        self.heal()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def links(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._links)

    def heal(self) -> None:
        """End all faults: delayed bytes flow, new connections are accepted."""
        self._latency = 0.0
        self._flowing.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.close()

    def freeze(self) -> None:
        """Half-open: connections stay and new ones are accepted, but no byte passes in either direction."""
        self._flowing.clear()

    def forget(self) -> None:
        """Swallow what comes on the present connections, without a word, as a firewall that has forgotten them does."""
        with self._lock:
            for link in self._links:
                link.forgotten = True

    def slow(self, seconds: float) -> None:
        """Delay all bytes by this long, in each direction."""
        self._latency = seconds

    def lose_replies(self, request: bytes, times: int = 1, reply: bytes = b"") -> LostReplies:
        """Let the next requests that hold `request` through, and lose their replies and connections."""
        losing = LostReplies(request, times, reply)
        with self._lock:
            self._losses.append(losing)
            for link in self._links:
                link.seen = b""  # requests before this one
        return losing

    def close(self) -> None:
        """Stop the proxy."""
        self.cut()
        self._flowing.set()

    # -- the threads

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            if listener is not self._listener:  # cut meanwhile
                self._drop(link)
                return
            for pump in (self._requests, self._replies):
                threading.Thread(target=pump, args=(link,), name="proxy-link", daemon=True).start()

    def _requests(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.client.recv(1 << 16):
                self._hold_up()
                link.losing = link.losing or self._to_lose(link, data)
                if not link.forgotten:
                    link.server.sendall(data)
        self._drop(link)

    def _replies(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.server.recv(1 << 16):
                self._hold_up()
                if link.losing and self._loses(link.losing, data):
                    break  # the server has run the request, and its reply is lost
                link.losing = None
                if not link.forgotten:
                    link.client.sendall(data)
        self._drop(link)

    def _hold_up(self) -> None:
        if self._latency:
            time.sleep(self._latency)
        self._flowing.wait()

    def _to_lose(self, link: _Link, data: bytes) -> LostReplies | None:
        link.seen = (link.seen + data)[-(len(data) + 200) :]  # a request may come in pieces
        with self._lock:
            for losing in self._losses:
                if losing.request in link.seen:
                    link.seen = b""
                    return losing
        return None

    def _loses(self, losing: LostReplies, reply: bytes) -> bool:
        with self._lock:
            if losing.done or not (losing.lost or losing.reply in reply):
                return False
            losing.lost += 1
            if losing.done:
                self._losses.remove(losing)
            return True

    def _drop(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        link.close()
