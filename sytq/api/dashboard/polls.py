"""Answers that polls share: one is made for all who would be shown the same, and serves them for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, NamedTuple

#: Seconds between two polls of a tab.
INTERVAL = 5
#: Seconds for which an answer serves: less than INTERVAL, so that no tab is shown something older than what it has.
_SERVES = 4.0
#: Answers that are kept; one may have 200 KB.
_MAX_KEPT = 100


class _Made(NamedTuple):
    since: float
    answer: asyncio.Task[str]


class Polls:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._made: dict[Hashable, _Made] = {}  # in the order of their age

    async def shared(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, str]]) -> str:
        """Return the answer of `make` that this key has already, or a new one. Raises what `make` raises."""
        now = time.monotonic()
        for old in [key for key, made in self._made.items() if made.since <= now - _SERVES]:
            del self._made[old]
        if key not in self._made:
            while len(self._made) >= _MAX_KEPT:
                del self._made[next(iter(self._made))]
            self._made[key] = _Made(now, asyncio.create_task(make()))
            self._made[key].answer.add_done_callback(lambda ended: self._ended(key, ended))
        return await asyncio.shield(self._made[key].answer)  # goes on for the others when this client is gone

    def forget(self) -> None:
        """Let the next polls read anew, as something was changed."""
        self._made.clear()

    def _ended(self, key: Hashable, answer: asyncio.Task[str]) -> None:
        """The next poll tries again what has failed."""
        failed = answer.cancelled() or answer.exception() is not None
        if failed and key in self._made and self._made[key].answer is answer:
            del self._made[key]
