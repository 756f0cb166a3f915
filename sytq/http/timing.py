"""How long each part of a call took. The connector and the resolver note it (protocol.py, sessions.py)."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass


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
        parts = {"dns": self.dns, "connect": self.connect, "first_byte": self.first_byte, "total": self.total}
        return {part: round(seconds * 1000, 1) for part, seconds in parts.items() if seconds is not None}


#: The timing of the current call of this asyncio task.
current: ContextVar[Timing | None] = ContextVar("sytq_http_timing", default=None)
