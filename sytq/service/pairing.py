"""Whether the ledger and the Redis of this process belong together.

Two Redis on one ledger run every task twice, and tasks of another ledger are unknown here: the second one waits. What a
store says of its partner decides, never a configuration, as one Redis has many addresses.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sytq.broker.pairing import RedisHalf
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.pairing import LedgerHalf
from sytq.pairing import FAR, RENEWED, Half, Partner, Silence


@dataclass(frozen=True, slots=True)
class Identity:
    """The stores of a process, as far as it knows them; `refused` says why it does not consume."""

    ledger: str = ""
    redis: str = ""
    salt: bytes | None = None  # of the ledger, for hashes of secrets
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why these stores are no pair: the partner that one of them has instead."""

    kind: str  # "redis": the ledger has another Redis; "ledger": the Redis has another ledger
    mine: str  # the place of the store that would be second
    shared: str  # the place of the store that has a partner
    partner: Partner

    def __str__(self) -> str:
        since = f"last seen {max(self.partner.silent, 0):.0f} s ago"
        if self.kind == "redis":
            return (
                f"the ledger {self.shared} is served by the Redis {self.partner.place} (worker {self.partner.worker}, "
                f"{since}), not by the Redis {self.mine}"
            )
        return (
            f"the Redis {self.shared} serves the ledger {self.partner.place} (worker {self.partner.worker}, {since}), "
            f"not the ledger {self.mine}"
        )

    @property
    def todo(self) -> str:
        setting, store = ("redis.url", "Redis") if self.kind == "redis" else ("database.url", "database")
        return (
            f"set {setting} (and redis.prefix) to the same {store} everywhere and restart; to move to the second one, "
            f"stop all workers of the first: {FAR:g} s later it takes over by itself"
        )


def conflicts(ledger: Half | None, redis: Half, places: tuple[str, str]) -> Iterator[Conflict]:
    """Where the halves disagree; `places` are those of ledger and Redis."""
    if ledger and (one := ledger.partner) and (one.id != redis.id or redis.beat < ledger.beat):
        if one.id == redis.id:
            # Emptied, or a copy. Workers touch the ledger while their Redis is away: only a beat is proof of another.
            one = replace(one, at=str(ledger.beat))
        yield Conflict("redis", places[1], places[0], one)
    if (one := redis.partner) and one.id != (ledger.id if ledger else ""):
        yield Conflict("ledger", places[0], places[1], one)


class Pairing:
    """The pair of one worker process, which keeps it alive for all, and takes the place of a pair that is silent."""

    def __init__(self, ledger: LedgerHalf, redis: RedisHalf, worker: str) -> None:
        self._ledger = ledger
        self._redis = redis
        self._worker = worker
        self._silences = {"redis": Silence(), "ledger": Silence()}
        self._halves: tuple[Half | None, Half] | None = None  # the pair, once they were one
        self.ledger_id = self.redis_id = ""
        self._salt: bytes | None = None
        self.conflict: Conflict | None = None  # at the last look
        self.refused = False  # the partner of a conflict was seen alive

    def identity(self) -> Identity:
        refused = str(self.conflict) if self.conflict and self.refused else None
        return Identity(self.ledger_id, self.redis_id, self._salt, refused)

    @property
    def places(self) -> tuple[str, str]:
        return self._ledger.place, self._redis.place

    def look(self) -> bool:
        """Return whether these stores may be used together; `conflict` also names a possible conflict.

        Raises DatabaseUnavailable and RedisUnavailable.
        """
        ledger, redis = self._read()
        self.conflict = None
        found = list(conflicts(ledger, redis, self.places))
        for kind in self._silences.keys() - {conflict.kind for conflict in found}:
            self._silences[kind].forget()  # what was heard in an earlier conflict proves nothing in the next
        for conflict in found:
            silence, partner = self._silences[conflict.kind], conflict.partner
            near = partner.place in self.places or (conflict.kind == "redis" and partner.id == redis.id)
            if not silence.lasts(partner, near=near):
                if silence.spoke or self._was_replaced(conflict):
                    self._halves, self.refused = None, True
                    self._refuse(conflict)
                self.conflict = conflict
                # A pair at work goes on until the other is proven alive: a failover loses the last beats.
                return self._halves is not None
        self._halves, self.refused = (ledger, redis), False
        if ledger and (found or not ledger.partner or not 0 <= ledger.partner.silent < RENEWED):
            self._claim(ledger, redis)
        return True

    def _was_replaced(self, conflict: Conflict) -> bool:
        """Whether a store of our pair has another partner now."""
        if self._halves is None:
            return False
        ledger, redis = self._halves
        mine = redis.id if conflict.kind == "redis" else ledger and ledger.id
        return mine != conflict.partner.id

    def _read(self) -> tuple[Half | None, Half]:
        try:
            ledger = self._ledger.make()
        except DatabaseUnavailable:
            self._silences["redis"].forget()
            if self._halves and self._halves[0]:  # nobody else may take this Redis meanwhile
                with contextlib.suppress(RedisUnavailable):
                    self._claim_redis(self._halves[0], self._redis.read(), beat=0)
            raise
        try:
            redis = self._redis.read(self._new_id(ledger))
        except RedisUnavailable:
            self._silences["ledger"].forget()
            if self._halves:  # nor this ledger
                self._ledger.touch(self._halves[1].id)
            raise
        if ledger and (self._salt is None or ledger.id != self.ledger_id):
            self._salt = self._ledger.salt()
        self.ledger_id, self.redis_id = ledger.id if ledger else "", redis.id
        return ledger, redis

    def _new_id(self, ledger: Half | None) -> str:
        """The identity for a Redis without one: an emptied Redis stays the same."""
        if self._halves:
            return self._halves[1].id
        partner = ledger.partner if ledger else None
        return partner.id if partner and partner.place == self._redis.place else secrets.token_hex(16)

    def _claim(self, ledger: Half, redis: Half) -> None:
        # Redis first: its beat is never behind the ledger's but after a loss.
        beat = max(ledger.beat, redis.beat) + 1
        if self._claim_redis(ledger, redis, beat):
            self._ledger.claim(ledger, redis.id, self._redis.place, self._worker, beat)

    def _claim_redis(self, ledger: Half, redis: Half, beat: int) -> bool:
        return self._redis.claim(redis, ledger.id, self._ledger.place, self._worker, beat)

    def _refuse(self, conflict: Conflict) -> None:
        if conflict.kind == "redis":
            self._ledger.refuse(self.redis_id, self._redis.place, self._worker)
        else:
            self._redis.refuse(self.ledger_id or "none", self._ledger.place, self._worker)
