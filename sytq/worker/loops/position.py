"""The position up to which events are recorded, in both stores: they tell a store that was set back.

A ledger that lacks what Redis knows to be recorded is an older one. What the event stream still has is recorded again:
after a failover that lost the last transactions that is all; after the restoration of an older dump it is not, and the
service is held. A Redis whose events end before the ledger's position is an older one: tasks that have ended leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import peewee
import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.state_index import Live
from sytq.ledger import audit
from sytq.ledger.database import read, transact
from sytq.ledger.hold import SetBack, advance, hold, position, set_position
from sytq.ledger.models import Task
from sytq.ledger.values import from_ms, iso, utcnow
from sytq.service.adoption import Adoption
from sytq.service.hold import last_event, moment_of, recorded_in_redis
from sytq.states import TERMINAL

log = structlog.get_logger(__name__)

_PAGE = 500
_BY = "sytq worker"

#: Entries of the event stream.
Entries = list[tuple[bytes, dict[bytes, bytes]]]


class Position:
    """As one recorder knows it, in Unix ms."""

    def __init__(self, redis: Redis, keys: Keys, database: peewee.Database, adoption: Adoption) -> None:
        self._redis = redis
        self._keys = keys
        self._database = database
        self._adoption = adoption
        self.known = 0  # what Redis knows

    def load(self) -> None:
        """Read what Redis knows: another worker may have recorded meanwhile."""
        self.known = recorded_in_redis(self._redis, self._keys)

    def check(self) -> None:
        """Mend a Redis that was set back; raise SetBack when the ledger is. Call it when no event waits."""
        ledger = read(self._database, position)
        # Confirmed in a transaction, as a proxy may send reads to a late replica.
        if ledger < self.known and transact(self._database, position) < self.known:
            raise SetBack
        if 0 < (last := last_event(self._redis, self._keys)) < ledger:
            self._mend_redis(ledger, last, last)

    def check_redis(self) -> None:
        """Mend an older Redis that has made events before anybody looked. Call it before events are recorded."""
        recorded = recorded_in_redis(self._redis, self._keys)
        if 0 < recorded < self.known and recorded < (ledger := read(self._database, position)):
            self._mend_redis(ledger, recorded, ledger)

    def advancing(self, events: Entries) -> Callable[[], None]:
        """Return what the transaction that records `events` writes too; it raises SetBack."""
        return partial(advance, self._database, self.known, moment_of(events[-1][0]))

    def advanced(self, events: Entries) -> None:
        """Tell Redis that `events` are committed."""
        if (at := moment_of(events[-1][0])) > self.known:
            self._redis.ask("SET", self._keys.recorded, at)
            self.known = at

    def recover(self, record: Callable[[Entries], None]) -> None:
        """Record again what the stream has, and hold the service unless the ledger lacks nothing then. Idempotent."""
        self.load()
        before = transact(self._database, position)
        if before >= self.known:
            return  # another recorder has lowered both meanwhile, or Redis was emptied
        whole = self._has_all_since(before)
        after = "-"
        while page := self._redis.ask("XRANGE", self._keys.events, after, "+", "COUNT", _PAGE):
            record(page)
            after = f"({page[-1][0].decode()}"
        was, until = f"is of {iso(from_ms(before))}" if before else "has no events", iso(from_ms(self.known))
        said = f"the database {was}; events until {until} were recorded"
        if whole:  # tasks that were accepted in the lost seconds are in Redis alone
            adopted, _ = self._adoption.adopt()
            said += f"; {adopted} tasks of Redis have their rows again"
        why = f"{said}: an older dump was restored, or this is another database"

        def work() -> None:
            set_position(self._database, self.known)
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
            return moment_of(removed) <= moment
        first = info["first-entry"]  # Redis 6
        return first is not None and moment_of(first[0]) <= moment

    def _mend_redis(self, ledger: int, of: int, to: int) -> None:
        """Drop the tasks of an older Redis that the ledger says have ended, and set both positions. Idempotent."""
        dropped = 0
        for ids in self._unfinished():
            query = Task.select(Task.id).where(Task.id.in_(ids), Task.state.in_(TERMINAL))
            ended: list[Task] = read(self._database, partial(list, query))
            if ended:  # without it the messages in streams and delayed sets are strays, which nobody starts
                dropped += self._redis.ask("HDEL", self._keys.live, *(row.id for row in ended))
        said = f"Redis is of {iso(from_ms(of))}, the database of {iso(from_ms(ledger))}"

        def work() -> None:
            set_position(self._database, to, lower=True)
            audit.note(utcnow(), _BY, "broker.set_back", "", f"{said}; {dropped} tasks had ended")

        self._redis.ask("SET", self._keys.recorded, to)
        self.known = to
        transact(self._database, work)
        log.warning("Redis set back: tasks that have ended since do not run again", reason=f"{said}; {dropped} tasks")

    def _unfinished(self) -> Iterator[list[str]]:
        cursor: bytes | int = 0
        while True:
            cursor, found = self._redis.ask("HSCAN", self._keys.live, cursor, "COUNT", _PAGE)
            if ids := [task_id.decode() for task_id, text in found.items() if Live.parse(text).state not in TERMINAL]:
                yield ids
            if int(cursor) == 0:
                return
