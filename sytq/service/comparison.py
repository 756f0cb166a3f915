"""Compares the processes and stores of an installation, for doctor, API, metrics and log. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from sytq.broker.cards import Cards, Seen
from sytq.broker.inspection import Inspection
from sytq.broker.pairing import RedisHalf
from sytq.errors import DatabaseUnavailable
from sytq.ledger.pairing import LedgerHalf
from sytq.pairing import FAR, NEAR, Half
from sytq.service.cards import CardMaker
from sytq.service.mismatches import Mismatch, compare
from sytq.service.pairing import Conflict, conflicts


class Comparison:
    """Compares what the processes say of themselves. Changes nothing."""

    def __init__(
        self,
        cards: Cards,
        inspection: Inspection,
        ledger: LedgerHalf | None,
        redis: RedisHalf,
        own: CardMaker | None = None,
    ) -> None:
        self._cards = cards
        self._inspection = inspection
        self._ledger = ledger
        self._redis = redis
        self._own = own

    def find(self) -> list[Mismatch]:
        """Every mismatch; without those of the pair while the database is away. Raises RedisUnavailable."""
        workers, others = self._cards.workers(), self._cards.apis()
        if self._own is not None:
            others = [*others, Seen("", 0.0, self._own.make())]
        work = {depth.queue for depth in self._inspection.queues() if depth.waiting}
        work |= {queue for queue, count in self._inspection.delayed().items() if count}
        return [*self.pair(), *compare(workers, others, work)]

    def pair(self) -> list[Mismatch]:
        """Whether this ledger and this Redis belong together, and who else tried. Raises RedisUnavailable."""
        if self._ledger is None:
            return []
        try:
            ledger = self._ledger.read()
        except DatabaseUnavailable:
            return []
        redis = self._redis.read()  # second: its beat is never behind
        asked = conflicts(ledger, redis, (self._ledger.place, self._redis.place))
        found = [one for one in asked if not _just_emptied(one, redis)]
        # A partner that has been silent for long gives way to the first worker here.
        named = [Mismatch(one.kind, one.mine, f"{one}", one.todo) for one in found if one.partner.silent < FAR]
        if ledger and not found:
            named += _refused("redis", self._ledger.place, ledger)
        if not found:
            named += _refused("ledger", self._redis.place, redis)
        return named


def _just_emptied(conflict: Conflict, redis: Half) -> bool:
    """Whether this is the same Redis, emptied or set back a moment ago: its workers say so as soon as they are sure."""
    same = conflict.partner.place == conflict.mine or conflict.partner.id == redis.id
    return conflict.kind == "redis" and same and (redis.partner is None or redis.partner.silent < 2 * NEAR)


def _refused(kind: str, shared: str, half: Half) -> Iterator[Mismatch]:
    one, first = half.refused, half.partner
    if one is None or first is None or one.silent > FAR:
        return
    conflict = Conflict(kind, one.place, shared, first)
    yield Mismatch(kind, one.place, f"the worker {one.worker} does not consume: {conflict}", conflict.todo)
