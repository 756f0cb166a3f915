"""The time limit of an attempt: one deadline for all that it does, which stands still while a result is written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from sytq.errors import TimedOut


class Deadline:
    """`with` it around the attempt: raises TimedOut. It counts from `begin`, and cancels once it is armed.

    As `asyncio.timeout`, at half of its cost: an attempt that does nothing takes no longer than ten of these.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: float | None = None  # of time.monotonic, which is the clock of event loops too
        self._armed = False
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False  # whether it has cancelled the attempt
        self._suspended = 0  # several steps of one attempt may write their results at once
        self._since = 0.0  # when it was suspended

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._set_timer(None)
        late = isinstance(error, TimeoutError) and self.remaining() <= 0
        if self.expired and self._task.uncancel() <= self._cancelling:  # else somebody else cancelled it, too
            late |= isinstance(error, asyncio.CancelledError)
        if late:
            raise TimedOut(f"timed out after {self._seconds:g} s") from None

    def begin(self) -> None:
        """Begin to count. Callable from any thread."""
        self._ends = time.monotonic() + self._seconds

    def arm(self) -> None:
        """Let it cancel the attempt from now on, if it has begun."""
        if self._ends is not None and not self._armed and not self._suspended:
            self._armed = True
            self._set_timer(self._ends)

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
            self._set_timer(when)

    def _set_timer(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else self._task.get_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        self.expired, self._timer = True, None
        self._task.cancel()
