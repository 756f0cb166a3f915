"""A text stream that never waits for its reader: of a full pipe, a stopped terminal or a busy journal.

What cannot be written yet is kept for the next write. Beyond a bound, lines are dropped; how many is logged once the
stream takes text again.
"""

from __future__ import annotations

import logging
import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sytq.observability.metrics import Counter

_DROPPED = Counter("sytq_log_lines_dropped_total", "Log lines that were dropped because nobody read them.")
#: Bytes. Where a pipe or socket is writable at all, a write of so many (and Dramatiq's 4 before them) does not block,
#: and no other process writes in between.
_CHUNK = 4000
#: Chunks that wait for a reader: 8 MB at most.
_MAX_WAITING = 2000

log = logging.getLogger(__name__)


class LogStream:
    """Wraps the text stream of a file descriptor; a stream without one counts as writable."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._held = 0
        self._lock = threading.RLock()
        self._writable: select.poll | None = None
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError):
            return
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)

    def write(self, text: str) -> int:
        with self._lock:
            self._drain()
            if len(self._waiting) < _MAX_WAITING:
                size = _CHUNK if text.isascii() else _CHUNK // 4
                self._waiting.extend(text[at : at + size] for at in range(0, len(text), size))
                self._drain()
            else:
                self._dropped += 1
                _DROPPED.add()
            reported = 0 if self._waiting else self._dropped
            self._dropped -= reported
        if reported:  # without the lock: another thread may hold that of logging, and wait for this one
            log.warning("%d log lines were dropped: nobody read standard error", reported)
        return len(text)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the lines of the block at its end, several at once: each write may cost a turn of the interpreter."""
        with self._lock:
            self._held += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1
                self._drain()

    def flush(self) -> None:
        """Nothing is held back: what could be written, was."""

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def _drain(self) -> None:
        while self._waiting and not self._held and (self._writable is None or self._writable.poll(0)):
            text = self._waiting.popleft()
            while self._waiting and len(text) + len(self._waiting[0]) <= _CHUNK and (text + self._waiting[0]).isascii():
                text += self._waiting.popleft()
            self._stream.write(text)
            self._stream.flush()
