"""A stream that other programs write to, as one consumer of its group sees it.

Owns the commands on that stream and its dead letters: read, take over, finish, release. Must not know what a message
means. The stream may live in another slot than our own keys, so no script here touches any of those.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence

from redis.crc import key_slot

from sytq.broker.cluster import Cluster
from sytq.broker.connection import Redis

#: A message: its entry id and its fields.
Entry = tuple[bytes, dict[bytes, bytes]]

_PAGE = 500


class ExternalStream:
    """See the module. All methods raise RedisUnavailable, and NoGroup while stream or group are missing."""

    def __init__(self, redis: Redis, stream: str, group: str, consumer: str, dead_letters: str) -> None:
        self._redis = redis
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._dead_letters = dead_letters
        slots = {key_slot(name.encode()) for name in (stream, dead_letters)}
        self._apart = len(slots) > 1 and isinstance(redis.client, Cluster)

    def make_group(self) -> None:
        """Make stream and group where they lack."""
        self._redis.make_group(self._stream, self._group)

    def read(self, most: int, wait: float) -> list[Entry]:
        """Take up to `most` messages that nobody has had, waiting up to `wait` seconds for the first."""
        block = ("BLOCK", max(1, int(wait * 1000))) if wait else ()
        command = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", most, *block)
        reply = self._redis.ask(*command, "STREAMS", self._stream, ">")
        return list(reply[0][1]) if reply else []

    def take_over(self, held: Collection[bytes], living: Collection[str], idle: float, most: int) -> list[Entry]:
        """Take messages that are ours and not among `held`, or for `idle` seconds those of a consumer not `living`."""
        args = [self._group, self._consumer, int(idle * 1000), most, len(living), *living, *held]
        claimed = self._redis.call("claim", [self._stream], args)
        return [(entry, dict(zip(parts[::2], parts[1::2], strict=True))) for entry, parts in claimed]

    def finish(self, entries: Sequence[bytes]) -> int:
        """Acknowledge and delete messages; return how many were pending."""
        done = 0
        for start in range(0, len(entries), _PAGE):
            done += self._redis.call("finish", [self._stream], [self._group, *entries[start : start + _PAGE]])
        return done

    def dead_letter(self, entry: bytes, payload: bytes | str, reason: str) -> None:
        """Move a message to the dead letters."""
        failed_at = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        fields = ["original_id", entry, "payload", payload, "reason", reason, "failed_at", failed_at]
        if self._apart:
            # After a crash between the two the entry is still pending and is written again: never lost, at worst twice.
            self._redis.ask("XADD", self._dead_letters, "*", *fields)
            self.finish([entry])
        else:
            self._redis.call("dead_letter", [self._stream, self._dead_letters], [self._group, entry, *fields])

    def release(self, entries: Sequence[bytes], idle: float) -> None:
        """Let others take over these messages at once, as if they had been idle for `idle` seconds."""
        if entries:
            args = [self._group, self._consumer, int(idle * 1000), *entries]
            self._redis.call("release", [self._stream], args)

    def last_taken(self) -> bytes:
        """Return the entry id up to which messages were handed out."""
        groups = self._redis.call("groups", [self._stream])
        return next((bytes(last) for name, last in groups if name.decode() == self._group), b"0-0")

    def taken_before(self, entry: bytes) -> Iterator[Entry]:
        """Yield the unfinished messages in front of an entry that were handed out to anybody."""
        start, end = b"-", min(b"(" + entry, self.last_taken(), key=lambda id: order(id.removeprefix(b"(")))
        while page := self._range(start, end):
            yield from page
            start = b"(" + page[-1][0]

    def after(self, entry: bytes) -> list[Entry]:
        """Return the next messages behind an entry, without taking them."""
        return self._range(b"(" + entry, b"+")

    def _range(self, start: bytes, end: bytes) -> list[Entry]:
        return list(self._redis.ask("XRANGE", self._stream, start, end, "COUNT", _PAGE))


def order(entry: bytes) -> tuple[int, int]:
    """What entry ids are sorted by."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)
