"""Room: how many more tasks this process can start now, on its threads and on its event loop.

Owns the two counts. A consumer takes room before it fetches, so a worker never hoards what another could run.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Literal

SlotKind = Literal["thread", "loop"]


class Slots:
    """Free places, per lane."""

    def __init__(self, threads: int, loop: int) -> None:
        self._free: dict[SlotKind, int] = {"thread": threads, "loop": loop}
        self._changed = threading.Condition()

    def take(self, lanes: Collection[SlotKind], most: int, timeout: float) -> int:
        """Take the same number of places in each of `lanes` (a queue of mixed types needs them all) and return it.

        Waits up to `timeout` seconds for one; 0 when there is none.
        """
        with self._changed:
            self._changed.wait_for(lambda: min(self._free[lane] for lane in lanes) > 0, timeout)
            taken = max(0, min(most, *(self._free[lane] for lane in lanes)))
            for lane in lanes:
                self._free[lane] -= taken
            return taken

    def give(self, lane: SlotKind, places: int) -> None:
        """Give places back."""
        if places:
            with self._changed:
                self._free[lane] += places
                self._changed.notify_all()
