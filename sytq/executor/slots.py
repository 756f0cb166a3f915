"""Slots: how many more tasks this process can start now, on its threads and on its event loop.

Consumers acquire slots before they fetch, so a full worker takes no task that another could run.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Literal

SlotKind = Literal["thread", "loop"]


class Slots:
    """The free slots of each kind; none until the first `release`."""

    def __init__(self) -> None:
        self._free: dict[SlotKind, int] = {"thread": 0, "loop": 0}
        self._changed = threading.Condition()

    def acquire(self, kinds: Collection[SlotKind], max_slots: int, timeout: float) -> int:
        """Acquire the same number of slots of each kind (a queue of mixed types needs all kinds) and return it.

        Waits up to `timeout` seconds for the first; 0 when none was free.
        """
        with self._changed:
            self._changed.wait_for(lambda: min(self._free[kind] for kind in kinds) > 0, timeout)
            acquired = max(0, min(max_slots, *(self._free[kind] for kind in kinds)))
            for kind in kinds:
                self._free[kind] -= acquired
            return acquired

    def release(self, kind: SlotKind, slots: int) -> None:
        """Release slots; a negative number takes slots that were not free."""
        if slots:
            with self._changed:
                self._free[kind] += slots
                self._changed.notify_all()
