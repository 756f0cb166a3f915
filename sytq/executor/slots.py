"""Slots: how many more tasks this process can start now, on its threads and on its event loop.

Consumers acquire slots before they fetch, so a full worker takes no task that another could run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping
from typing import Literal

SlotKind = Literal["thread", "loop"]

#: Tasks on their way at most, from their fetch to their beginning on the event loop, and from their end to its
#: acknowledgement: while half of them pass the next half is fetched. More would only wait, while another worker could
#: begin them, run again if this one died, and have their ends recorded apart from their starts.
_ON_THE_WAY = 200


class Slots:
    """The free slots of each kind; none until `open`. At most `max_running` tasks run at once, whatever their kind."""

    def __init__(self, max_running: int | None = None) -> None:
        self._free: dict[SlotKind, int] = {"thread": 0, "loop": 0}
        self._passing = 0
        self._room: float = math.inf if max_running is None else max_running
        self._waiting: list[tuple[int, Collection[SlotKind], int]] = []  # what consumers wait for
        self._changed = threading.Condition()

    def open(self, *, threads: int, loop_slots: int) -> None:
        """Add the slots of this process."""
        with self._changed:
            self._free["thread"] += threads
            self._free["loop"] += loop_slots
            self._notify()

    def acquire(self, kinds: Collection[SlotKind], max_slots: int, timeout: float, ahead: int = 0) -> int:
        """Acquire the same number of slots of each kind (a queue of mixed types needs all kinds) and return it.

        Waits up to `timeout` seconds for the first; 0 when none was free. `ahead` slots of threads more count as free,
        for tasks that will have a thread in a moment: then half of them are worth waiting for, as a fetch of one task
        costs nearly what one of fifty costs.
        """
        wanted = min(max_slots, 1 + ahead // 2)
        with self._changed:
            self._waiting.append((wanted, kinds, ahead))
            try:
                self._changed.wait_for(lambda: self._most(kinds, ahead) >= wanted, timeout)
            finally:
                self._waiting.remove((wanted, kinds, ahead))
            acquired = max(0, min(max_slots, self._most(kinds, ahead)))
            for kind in kinds:
                self._free[kind] -= acquired
            self._passing += acquired if "loop" in kinds else 0
            self._room -= acquired
            return acquired

    def release_unused(self, kinds: Collection[SlotKind], acquired: int, used: Mapping[SlotKind, int]) -> None:
        """Release what `acquire` returned for these kinds, except the used slots; also of a kind not acquired."""
        with self._changed:
            for kind in {*kinds, *used}:
                unused = (acquired if kind in kinds else 0) - used.get(kind, 0)
                self._free[kind] += unused
                self._passing -= unused if kind == "loop" else 0
            self._room += acquired - sum(used.values())
            self._notify()

    def release(self, kind: SlotKind) -> None:
        """Release the slot of a task that has ended; it is on its way until its acknowledgement has `passed`."""
        with self._changed:
            self._free[kind] += 1
            self._room += 1
            self._passing += 1
            self._notify()

    def passed(self, count: int) -> None:
        """Say that the event loop has begun so many tasks, or that so many ends are acknowledged."""
        with self._changed:
            self._passing -= count
            self._notify()

    def _notify(self) -> None:
        """Wake the consumers if one of them has what it waits for: each would take the interpreter from a task."""
        if any(self._most(kinds, ahead) >= wanted for wanted, kinds, ahead in self._waiting):
            self._changed.notify_all()

    def _most(self, kinds: Collection[SlotKind], ahead: int = 0) -> int:
        if self._passing > _ON_THE_WAY // 2:
            return 0
        free = (self._free[kind] + (ahead if kind == "thread" else 0) for kind in kinds)
        return int(min(self._room, _ON_THE_WAY // 2, *free))
