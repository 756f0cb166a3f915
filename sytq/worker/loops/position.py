"""The position up to which events are recorded, in both stores: they tell a database that was set back.

What the event stream still has is recorded again. It is all that is missing after a failover that lost the last
transactions; after the restoration of an older dump it is not, and the service is held.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import peewee
import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.ledger import audit
from sytq.ledger.database import transact
from sytq.ledger.hold import SetBack, advance, hold, position, set_position
from sytq.ledger.values import from_ms, iso, utcnow
from sytq.service.hold import recorded_in_redis

log = structlog.get_logger(__name__)

_PAGE = 500
_BY = "sytq worker"

#: Entries of the event stream.
Entries = list[tuple[bytes, dict[bytes, bytes]]]


class Position:
    """As one recorder knows it, in Unix ms."""

    def __init__(self, redis: Redis, keys: Keys, database: peewee.Database) -> None:
        self._redis = redis
        self._keys = keys
        self._database = database
        self._known = 0

    def load(self) -> None:
        """Read what Redis knows: another worker may have recorded meanwhile."""
        self._known = recorded_in_redis(self._redis, self._keys)

    def check(self) -> None:
        """Raise SetBack when the ledger is behind. In a transaction, as a proxy may send reads to a late replica."""

        def work() -> None:
            if position() < self._known:
                raise SetBack

        transact(self._database, work)

    def advancing(self, events: Entries) -> Callable[[], None]:
        """Return what the transaction that records `events` writes too; it raises SetBack."""
        return partial(advance, self._database, self._known, _at(events[-1][0]))

    def advanced(self, events: Entries) -> None:
        """Tell Redis that `events` are committed."""
        if (at := _at(events[-1][0])) > self._known:
            self._redis.ask("SET", self._keys.recorded, at)
            self._known = at

    def recover(self, record: Callable[[Entries], None]) -> None:
        """Record again what the stream has, and hold the service unless the ledger lacks nothing then. Idempotent."""
        before = transact(self._database, position)
        whole = self._has_all_since(before)
        after = "-"
        while page := self._redis.ask("XRANGE", self._keys.events, after, "+", "COUNT", _PAGE):
            record(page)
            after = f"({page[-1][0].decode()}"
        was, until = f"is of {iso(from_ms(before))}" if before else "has no events", iso(from_ms(self._known))
        said = f"the database {was}; events until {until} were recorded"
        why = f"{said}: an older dump was restored, or this is another database"

        def work() -> None:
            set_position(self._database, self._known)
            audit.note(utcnow(), _BY, "ledger.set_back", "", said)
            if not whole:
                hold(utcnow(), _BY, why)

        transact(self._database, work)
        if whole:
            log.warning("database set back: its last events are recorded again", reason=said)
        else:
            log.critical("database set back: no task starts before `sytq hold off`", reason=why)

    def _has_all_since(self, moment: int) -> bool:
        """Whether no event after `moment` has left the stream. An empty database lacks more than events."""
        if not moment:
            return False
        info = self._redis.ask("XINFO STREAM", self._keys.events)
        removed = info.get("max-deleted-entry-id")
        if removed is not None:
            return _at(removed) <= moment
        first = info["first-entry"]  # Redis 6
        return first is not None and _at(first[0]) <= moment


def _at(entry: bytes | str) -> int:
    """The time (ms) at which an entry was added."""
    return int((entry if isinstance(entry, str) else entry.decode()).partition("-")[0])
