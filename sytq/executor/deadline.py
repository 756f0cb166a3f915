"""The time limit of an attempt: one deadline for all that it does, which stands still while a result is written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from sytq.errors import TimedOut


class Deadline:
    """`async with` it around the attempt: raises TimedOut. It counts from `begin`, and cancels once it is armed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: float | None = None  # of time.monotonic, which is the clock of event loops too
        self._timeout = asyncio.Timeout(None)
        self._armed = False
        self._suspended = 0  # several steps of one attempt may write their results at once
        self._since = 0.0  # when it was suspended

    async def __aenter__(self) -> Deadline:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        late = isinstance(error, TimeoutError) and self.remaining() <= 0
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            late = True
        if late:
            raise TimedOut(f"timed out after {self._seconds:g} s") from None

    def begin(self) -> None:
        """Begin to count. Callable from any thread."""
        self._ends = time.monotonic() + self._seconds

    def arm(self) -> None:
        """Let it cancel the attempt from now on, if it has begun."""
        if self._ends is not None and not self._armed and not self._suspended:
            self._armed = True
            self._timeout.reschedule(self._ends)

    @property
    def expired(self) -> bool:
        """Whether it has cancelled the attempt."""
        return self._timeout.expired()

    def remaining(self) -> float:
        """The seconds left, 0 when it is over."""
        if self._ends is None:
            return self._seconds
        return max(0.0, self._ends - (self._since if self._suspended else time.monotonic()))

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop it for the length of the block."""
        if not self._suspended:
            self._since = time.monotonic()
            self._reschedule(None)
        self._suspended += 1
        try:
            yield
        finally:
            self._suspended -= 1
            if not self._suspended and self._ends is not None:
                self._ends += time.monotonic() - self._since
                self._reschedule(self._ends)

    def _reschedule(self, when: float | None) -> None:
        if self._armed and not self.expired:
            self._timeout.reschedule(when)
