"""The recorder: writes the event stream to SQL in batches, at most a second behind.

An event stays pending until its transaction is committed, and recording it twice changes nothing.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import peewee
import structlog

from sytq.broker.connection import NoGroup, Redis
from sytq.broker.keys import RECORDER, Keys
from sytq.ledger.events import Event
from sytq.ledger.hold import SetBack
from sytq.ledger.values import from_ms
from sytq.observability.metrics import Counter
from sytq.service.recording import Recording
from sytq.states import RUNNING
from sytq.tasktypes.payload import encode
from sytq.worker.loops.loop import LeasedLoop
from sytq.worker.loops.position import Entries, Position

log = structlog.get_logger(__name__)

#: Errors of an event with content that no worker can ever write.
_CONTENT = (peewee.DataError, ValueError, KeyError, TypeError, OverflowError)
_ASIDE = Counter("sytq_events_set_aside_total", "Events that no column of the ledger takes.")
#: fetch.lua's mark of a task that is dead because its workers died.
WORKER_DIED = "worker-died"
#: Entries of one transaction, so many that most starts find their ends in it: then an attempt is written once. And what
#: one call of a script may remove.
_BATCH, _REMOVED = 2000, 500
_BLOCK_MS = 500
#: From so many entries at once on more are coming: for so many seconds they gather. A batch costs five round trips to
#: Redis and a transaction, and each of these takes the interpreter from a task.
_MANY, _GATHERING = 4, 0.025
#: How long an event and the mark of a finished task stay in Redis after SQL has them: longer than a reader (the
#: reconciler) may act on an earlier read.
KEEP_MS = 10_000


class Recorder(LeasedLoop):
    """Reads events, records them, and trims the stream."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, recording: Recording, position: Position) -> None:
        super().__init__("record", redis, keys, holder)
        self._recording = recording
        self._position = position
        self._trimmed = 0.0
        self._reached: deque[tuple[float, int]] = deque()  # the positions of the last seconds, and when
        self._unfinished = False

    def work(self) -> float:
        try:
            return self._work()
        except SetBack:
            self._position.recover(lambda events: self._record_or_set_aside(events, None))
            self._unfinished = True
            return 0.0

    def _work(self) -> float:
        if self.fresh:
            self._position.load()
            self._position.check()
        try:
            # Events read but not written (by an earlier holder, or before a fault) come first and in order.
            unfinished = self._read("0") if self.fresh or self._unfinished else []
            events = unfinished or self._read(">")
        except NoGroup:
            self.redis.make_group(self.keys.events, RECORDER)
            return 0.0
        if events:
            self._position.check_redis()
            self._record_or_set_aside(events, self._position.advancing(events))
            self.redis.ask("XACK", self.keys.events, RECORDER, *(entry for entry, _ in events))
            self._position.advanced(events)
        self._unfinished = bool(unfinished)
        if time.monotonic() - self._trimmed > 1.0:
            self._position.check()
            self._trim()
            self._trimmed = time.monotonic()
        return _GATHERING if _MANY <= len(events) < _BATCH else 0.0

    def _read(self, since: str) -> Entries:
        reply = self.redis.ask(
            *("XREADGROUP", "GROUP", RECORDER, "recorder", "COUNT", _BATCH, "BLOCK", _BLOCK_MS),
            *("STREAMS", self.keys.events, since),
        )
        return list(reply[0][1]) if reply else []

    def _record_or_set_aside(self, events: Entries, also: Callable[[], None] | None) -> None:
        """Record all events, and only the state of an event with content that no column takes.

        After any other fault the events are read again: none is skipped. Raises what `also` does.
        """
        try:
            self._record(events, also)
            return
        except _CONTENT as error:
            refused = error
        if len(events) > 1:
            log.warning("events cannot be written: trying each half", events=len(events), error=type(refused).__name__)
            middle = len(events) // 2
            self._record_or_set_aside(events[:middle], also)
            self._record_or_set_aside(events[middle:], also)
            return
        ((entry, fields),) = events
        _ASIDE.add()
        log.error("event set aside", entry=entry.decode(), exc_info=refused)
        flat = [part for pair in fields.items() for part in pair]
        aside = ("XADD", self.keys.deadletters, "MAXLEN", "~", 10_000, "*", "reason", repr(refused)[:500])
        self.redis.ask(*aside, *flat)
        self._recording.record([_without_content(known) for known in _readable(fields)], also=also)

    def _record(self, events: Entries, also: Callable[[], None] | None) -> None:
        parsed = [event for _, fields in events for event in events_of(fields)]
        self._recording.record(parsed, also=also, again=also is None)
        for event in parsed:
            if event.fingerprint == WORKER_DIED:  # no process logged its end
                log.critical(
                    "a task killed its workers",
                    task_id=event.id,
                    attempts=event.attempts,
                    error=event.error,
                    last_lines=json.loads(event.detail or "{}").get("log"),
                )

    def _trim(self) -> None:
        """Remove what was recorded some time ago, whatever its age: a failover of the database may lose the latest."""
        now, until = time.monotonic(), 0
        self._reached.append((now, self._position.known))
        while self._reached[0][0] <= now - KEEP_MS / 1000:
            _, until = self._reached.popleft()
        names = [self.keys.events, self.keys.live, self.keys.progress, self.keys.crashes]
        while self.redis.call("forget", names, [RECORDER, until, _REMOVED]) == _REMOVED:
            pass


def events_of(fields: Mapping[bytes, bytes]) -> list[Event]:
    """Parse the events of one entry of the stream."""
    data: Any = json.loads(fields[b"data"])
    if fields[b"kind"] == b"started":
        worker, at = fields[b"worker"].decode(), from_ms(int(fields[b"at"]))
        return [
            Event(id, RUNNING, int(token), attempts, worker, started_at=at, again=again)
            for id, token, attempts, again in data
        ]
    due, started, progress = data.get("due"), data.get("started"), data.get("progress")
    detail = data.get("detail") or {}
    return [
        Event(
            id=fields[b"id"].decode(),
            state=data["state"],
            token=int(fields[b"token"]),
            attempts=data["attempts"],
            worker=data.get("worker"),
            started_at=from_ms(started) if started else None,
            finished_at=from_ms(data["finished"]),
            scheduled_at=from_ms(due) if due else None,
            outcome=data.get("outcome"),
            result=data.get("result"),
            error=data.get("error"),
            fingerprint=data.get("fingerprint"),
            progress=encode(progress) if progress else None,
            detail=encode(detail) if detail else None,
            status=detail.get("status"),
            host=detail.get("host"),
        )
    ]


def _readable(fields: dict[bytes, bytes]) -> list[Event]:
    """Parse the events of one entry; none of a newer release's entry or of an invalid entry."""
    try:
        return events_of(fields)
    except _CONTENT:
        return []


def _without_content(event: Event) -> Event:
    """Return the event's state, with an error in place of its content."""
    error = "what this run left (result, error or progress) cannot be written to the database"
    return Event(event.id, event.state, event.token, event.attempts, finished_at=event.finished_at, error=error)
