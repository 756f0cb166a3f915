"""Whether this process may start tasks: not while the service is held, and not beside a store that was set back.

The ledger has the hold, so that neither an emptied Redis nor a restart ends it.
"""

from __future__ import annotations

import threading
import time

import peewee
import structlog

from sytq.broker.connection import NoGroup, Redis
from sytq.broker.keys import Keys
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger import hold as ledger
from sytq.ledger.database import read, transact
from sytq.ledger.models import Pause
from sytq.ledger.values import iso

log = structlog.get_logger(__name__)

#: Seconds between two looks.
_INTERVAL = 0.5
#: Seconds that a process that has not read the ledger yet starts nothing. Then it starts what Redis has, so that a
#: restart during an outage of the database stops no webhook: what ran before comes from the ledger alone, and waits.
_UNKNOWN = 10.0


class Hold:
    """Of one process; loops call `look`, which keeps `may_start` current. Thread-safe."""

    def __init__(self, database: peewee.Database, redis: Redis, keys: Keys) -> None:
        self._database = database
        self._redis = redis
        self._keys = keys
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._held = False
        self._closed: bool | None = None  # None: not known; since `_unknown` because of the ledger
        self._unknown = float("inf")
        self._current = False  # whether the last look succeeded
        self._recorded = 0

    def may_start(self) -> bool:
        """Whether tasks that Redis has may start, by the last look."""
        if self._closed is None:
            return time.monotonic() - self._unknown > _UNKNOWN
        return not self._closed

    def recorded(self) -> int:
        """The position (Unix ms) that Redis had at the last look: one that has an older position was set back since."""
        return self._recorded

    def look(self) -> bool:
        """Read the stores, at most twice a second; return whether tasks may be taken from the ledger or elsewhere.

        Raises DatabaseUnavailable and RedisUnavailable.
        """
        with self._lock:
            if time.monotonic() - self._looked >= _INTERVAL:
                self._current = False
                try:
                    self._note(*self._read())
                    self._current = True
                except RedisUnavailable:
                    if not self._held:  # it may come back older
                        self._closed, self._unknown = None, float("inf")
                    raise
                except DatabaseUnavailable:
                    self._unknown = min(self._unknown, time.monotonic())
                    raise
                finally:
                    self._looked = time.monotonic()
            return self._current and not self._closed

    def _read(self) -> tuple[Pause | None, bool]:
        """Return the hold, and whether one of the stores was set back."""
        # In this order, as all three only grow: the ledger's position is never below that of Redis, nor above the last
        # event.
        recorded = recorded_in_redis(self._redis, self._keys)
        position, row = read(self._database, _position_and_hold)
        if position < recorded:  # unless a proxy has asked a late replica: transactions go to the first server
            position, row = transact(self._database, _position_and_hold)
        last = last_event(self._redis, self._keys)
        # What an older Redis says to be recorded is below what it said before, also where it has made an event since.
        older = 0 < last < position or 0 < recorded < min(position, self._recorded)
        if not older:
            self._recorded = recorded
        return row, older or position < recorded

    def _note(self, row: Pause | None, set_back: bool) -> None:
        if row is not None and not self._held:
            log.warning("no task starts: the service is held", reason=_said(row))
        elif row is None and self._held:
            log.info("hold ended: tasks start again")
        self._held = row is not None
        # The recorder mends a store that was set back, or holds the service; nothing starts until then.
        self._closed = self._held or set_back


def _position_and_hold() -> tuple[int, Pause | None]:
    # The position first: the transaction that mends it holds the service, and may commit between the two.
    position = ledger.position()
    return position, ledger.held()


def held(database: peewee.Database) -> str:
    """Say since when, by whom and why the service is held; empty when it is not."""
    row = read(database, ledger.held)
    return "" if row is None else _said(row)


def _said(row: Pause) -> str:
    return f"since {iso(row.paused_at)} by {row.paused_by}: {row.paused_why}"


def last_event(redis: Redis, keys: Keys) -> int:
    """Return the time (Unix ms) of the last event that Redis has made, 0 of an empty one."""
    try:
        return moment_of(redis.ask("XINFO STREAM", keys.events)["last-generated-id"])
    except NoGroup:
        return 0


def moment_of(entry: bytes | str) -> int:
    """Return the time (Unix ms) at which an entry of a stream was added."""
    return int((entry if isinstance(entry, str) else entry.decode()).partition("-")[0])


def recorded_in_redis(redis: Redis, keys: Keys) -> int:
    """Return the position up to which Redis knows events to be recorded (Unix ms), 0 when it knows none."""
    return int(redis.ask("GET", keys.recorded) or 0)
