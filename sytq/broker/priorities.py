"""The order in which a fetch serves the priorities of a queue.

A weight is how often its priority comes first; the other priorities follow from the highest down.
"""

from __future__ import annotations

from collections.abc import Mapping

from sytq.states import PRIORITIES


class Turn:
    """Smooth weighted round robin: even turns rather than random ones, so no priority starves by chance.

    A priority of weight 0 is never first; if only urgent has a weight, the order is strict.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = {priority: weights.get(priority, 0) for priority in PRIORITIES}
        self._credit = dict.fromkeys(PRIORITIES, 0)

    def order(self) -> list[str]:
        """Take a turn and return the priorities in its order."""
        for priority, weight in self._weights.items():
            self._credit[priority] += weight
        first = max(PRIORITIES, key=lambda priority: self._credit[priority])
        self._credit[first] -= sum(self._weights.values())
        return [first, *(priority for priority in PRIORITIES if priority != first)]
