"""The loop that keeps the search index from the rows of the tasks. One worker runs it."""

from __future__ import annotations

import time
from collections.abc import Collection

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.ledger.search_upkeep import SearchUpkeep
from sytq.worker.loops.loop import LeasedLoop

_INTERVAL, _DECLARE_INTERVAL = 1.0, 30.0
#: Tasks of one transaction, fewer while it takes longer than so many seconds (large payloads).
_BATCH, _LONG = 500, 0.3
#: Rows and entries of one look for what was missed, and the share of the time that these looks may take.
_LOOK, _SHARE = 5000, 0.01


class Indexer(LeasedLoop):
    """New tasks come first; then old ones, half of the time; when all are indexed it looks for what was missed."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, upkeep: SearchUpkeep, fields: Collection[str]) -> None:
        super().__init__("search", redis, keys, holder)
        self._upkeep = upkeep
        self._fields = fields
        self._declare_due = self._new_due = self._look_due = 0.0
        self._batch = _BATCH

    def work(self) -> float:
        began = time.monotonic()
        if self.fresh or began >= self._declare_due:
            self._upkeep.declare(self._fields)
            self._declare_due = began + _DECLARE_INTERVAL
        if began >= self._new_due:
            if self._upkeep.index_new(self._batch):
                self._adapt(began)
                return 0.0
            self._new_due = began + _INTERVAL
        began = time.monotonic()
        if self._upkeep.fill(self._batch):
            self._adapt(began)
            return time.monotonic() - began
        if began >= self._look_due:
            if self._upkeep.verify(_LOOK):
                return time.monotonic() - began
            self._upkeep.sweep(_LOOK)
            self._look_due = time.monotonic() + (time.monotonic() - began) / _SHARE
        return _INTERVAL

    def _adapt(self, began: float) -> None:
        took = time.monotonic() - began
        self._batch = max(10, self._batch // 2) if took > _LONG else min(_BATCH, self._batch * 2)
