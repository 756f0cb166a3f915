"""The loop that says once in the log what differs between the processes of the installation. One worker runs it."""

from __future__ import annotations

import structlog

from sytq.broker.cards import Cards
from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.service.comparison import Comparison
from sytq.service.mismatches import Mismatch
from sytq.worker.loops.loop import LeasedLoop

log = structlog.get_logger(__name__)

_INTERVAL = 5.0


class Comparer(LeasedLoop):
    """A mismatch is said when two looks have found it: processes start and stop one after the other."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, cards: Cards, comparison: Comparison) -> None:
        super().__init__("compare", redis, keys, holder)
        self._cards = cards
        self._comparison = comparison
        self._before: set[tuple[str, str]] = set()
        self._said: dict[tuple[str, str], Mismatch] = {}

    def work(self) -> float:
        self._cards.prune()
        found = {(each.kind, each.about): each for each in self._comparison.find()}
        for key, mismatch in found.items():
            if key in self._before and key not in self._said:
                self._said[key] = mismatch
                log.warning("processes differ", kind=mismatch.kind, error=f"{mismatch.said}; {mismatch.todo}")
        for key in self._said.keys() - found.keys() - self._before:
            mismatch = self._said.pop(key)
            log.info("processes differ no more", kind=mismatch.kind, error=mismatch.said)
        self._before = set(found)
        return _INTERVAL
