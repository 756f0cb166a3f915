"""The recorder: turns the event stream into rows, in batches, at most a second behind.

Owns reading the events and forgetting them afterwards. An event stays pending until its transaction is committed,
and writing it twice changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import peewee
import structlog

from sytq.broker.connection import NoGroup, Redis
from sytq.broker.keys import RECORDER, Keys
from sytq.ledger.events import Event
from sytq.ledger.values import from_ms
from sytq.observability.metrics import Counter
from sytq.service.recording import Recording
from sytq.states import RUNNING
from sytq.tasktypes.declaration import encode
from sytq.worker.loops.loop import LeasedLoop

log = structlog.get_logger(__name__)

#: What says that an event holds something that cannot be written, whoever tries and when.
_CONTENT = (peewee.DataError, ValueError, KeyError, TypeError)
_ASIDE = Counter("sytq_events_set_aside_total", "Events that no column of the ledger takes.")
#: fetch.lua's mark of a task that is dead because its workers died.
WORKER_DIED = "worker-died"
_BATCH = 500
_BLOCK_MS = 500
#: How long the mark of a finished task stays in Redis after it was written to SQL: longer than any reader may
#: act on what it read before (see `reconcile`).
KEEP_MS = 10_000


class Recorder(LeasedLoop):
    """See the module."""

    def __init__(self, redis: Redis, keys: Keys, holder: str, recording: Recording) -> None:
        super().__init__("record", redis, keys, holder)
        self._recording = recording
        self._forgotten = 0.0
        self._behind = False

    def work(self) -> float:
        try:
            # What was read and not written (by an earlier holder, or before a fault) comes first and in order.
            unfinished = self._read("0") if self.fresh or self._behind else []
            events = unfinished or self._read(">")
        except NoGroup:
            self.redis.make_group(self.keys.events, RECORDER)
            return 0.0
        self._behind = True
        if events:
            self._record_or_set_aside(events)
            self.redis.ask("XACK", self.keys.events, RECORDER, *(entry for entry, _ in events))
        self._behind = bool(unfinished)
        if time.monotonic() - self._forgotten > 1.0:
            self._forget()
            self._forgotten = time.monotonic()
        return 0.0

    def _read(self, since: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        reply = self.redis.ask(
            *("XREADGROUP", "GROUP", RECORDER, "recorder", "COUNT", _BATCH, "BLOCK", _BLOCK_MS),
            *("STREAMS", self.keys.events, since),
        )
        return list(reply[0][1]) if reply else []

    def _record_or_set_aside(self, events: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Write all events. One with something in it that no column takes must not hold up all others: of it just
        the end is written. Every other fault waits: nothing is passed over."""
        try:
            self._record(events)
            return
        except _CONTENT:
            log.exception("a batch of events cannot be written: trying one by one")
        for event in events:
            try:
                self._record([event])
            except _CONTENT as error:
                _ASIDE.add()
                log.exception("event set aside", entry=event[0].decode())
                fields = [part for pair in event[1].items() for part in pair]
                aside = ("XADD", self.keys.deadletters, "MAXLEN", "~", 10_000, "*", "reason", repr(error)[:500])
                self.redis.ask(*aside, *fields)
                self._recording.record([_bare(change) for change in _told(event[1])])

    def _record(self, events: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        changes = [change for _, fields in events for change in changes_of(fields)]
        self._recording.record(changes)
        for change in changes:
            if change.fingerprint == WORKER_DIED:  # no process of ours saw it end
                log.critical("a task killed its workers", task_id=change.id, attempts=change.attempts)

    def _forget(self) -> None:
        names = [self.keys.events, self.keys.live, self.keys.progress]
        while self.redis.call("forget", names, [RECORDER, KEEP_MS, _BATCH]) == _BATCH:
            pass


def changes_of(fields: Mapping[bytes, bytes]) -> list[Event]:
    """What one event of the stream says."""
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


def _told(fields: dict[bytes, bytes]) -> list[Event]:
    """As `changes_of`; nothing where not even that can be read: of a newer release, or no event at all."""
    try:
        return changes_of(fields)
    except _CONTENT:
        return []


def _bare(change: Event) -> Event:
    """What must be known of a change: the state, and that the rest could not be kept."""
    error = "what this run left (result, error or progress) cannot be written to the database"
    return Event(change.id, change.state, change.token, change.attempts, finished_at=change.finished_at, error=error)
