"""How long each part of a call took, by aiohttp's trace hooks."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp


@dataclass(slots=True)
class Timing:
    """Seconds by part; None for a part that did not happen, such as connecting when a connection was reused.

    `connect` includes the TLS handshake; `first_byte` is from the connection to the last header of the response.
    """

    dns: float | None = None
    connect: float | None = None
    first_byte: float | None = None
    total: float | None = None
    connected: bool = False
    mark: float = 0.0  # when the current part began

    def begin(self) -> None:
        self.mark = time.perf_counter()

    def end(self) -> float:
        """End the current part, begin the next, and return the seconds."""
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        return seconds

    def milliseconds(self) -> dict[str, float]:
        """Return the parts that happened, to a tenth."""
        parts = ("dns", "connect", "first_byte", "total")
        return {part: round(value * 1000, 1) for part in parts if (value := getattr(self, part)) is not None}


#: The timing of the current call of this asyncio task.
current: ContextVar[Timing | None] = ContextVar("sytq_http_timing", default=None)


def tracing() -> aiohttp.TraceConfig:
    """Return the trace hooks with which a session fills in `current`."""
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(_connecting)
    trace.on_dns_resolvehost_start.append(_begin)
    trace.on_dns_resolvehost_end.append(_resolved)
    trace.on_connection_create_end.append(_connected)
    trace.on_connection_reuseconn.append(_reused)
    return trace


async def _begin(_session: Any, _context: SimpleNamespace, _params: Any) -> None:
    if timing := current.get():
        timing.begin()


async def _connecting(_session: Any, _context: SimpleNamespace, _params: Any) -> None:
    if timing := current.get():
        timing.begin()
        timing.connected = False  # a reused connection was lost


async def _resolved(_session: Any, _context: SimpleNamespace, _params: Any) -> None:
    if timing := current.get():
        timing.dns = timing.end()


async def _connected(_session: Any, _context: SimpleNamespace, _params: Any) -> None:
    if timing := current.get():
        timing.connect = timing.end()
        timing.connected = True


async def _reused(_session: Any, _context: SimpleNamespace, _params: Any) -> None:
    if timing := current.get():
        timing.begin()
        timing.connected = True
