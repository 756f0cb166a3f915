"""The loop that counts the tasks of periods for charts, and dead tasks by cause. One worker runs it."""

from __future__ import annotations

import time

import peewee

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.ledger.failures import FailureRollup
from sytq.ledger.rollup import Rollup
from sytq.worker.loops.loop import LeasedLoop

_INTERVAL = 5.0
#: The part of the time in which it keeps the database busy, however many tasks there are.
_SHARE = 0.05


class FiguresLoop(LeasedLoop):
    """Rests in proportion to its work, so that a busy database has figures that are a minute behind."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, database: peewee.Database) -> None:
        super().__init__("figures", redis, keys, holder)
        self._database = database

    def work(self) -> float:
        if self.fresh:  # another worker may have counted meanwhile
            self._rollup, self._failures = Rollup(self._database), FailureRollup(self._database)
        began = time.monotonic()
        more = self._rollup.advance()
        self._failures.advance()
        rest = (time.monotonic() - began) * (1 / _SHARE - 1)
        return rest if more else max(rest, _INTERVAL)
