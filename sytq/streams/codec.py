"""An external stream, as one consumer of its group sees it: read, take over, finish, dead-letter and release messages.

Must not know what a message means. In a Redis Cluster the stream may be in another slot, so no script here uses sytq's
keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

from redis.crc import key_slot

from sytq import clock
from sytq.broker.cluster import Cluster
from sytq.broker.connection import Redis

#: A message: its entry id and its fields.
Entry = tuple[bytes, dict[bytes, bytes]]

_PAGE = 500


class ExternalStream:
    """One stream, its group and its dead letters. All methods raise RedisUnavailable, and NoGroup without a group."""

    def __init__(self, redis: Redis, stream: str, group: str, consumer: str, dead_letters: str) -> None:
        self._redis = redis
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._dead_letters = dead_letters
        slots = {key_slot(name.encode()) for name in (stream, dead_letters)}
        self._apart = len(slots) > 1 and isinstance(redis.client, Cluster)

    def make_group(self) -> None:
        self._redis.make_group(self._stream, self._group)

    def read(self, count: int, wait: float) -> list[Entry]:
        """Take up to `count` new messages, waiting up to `wait` seconds for the first."""
        block = ("BLOCK", max(1, int(wait * 1000))) if wait else ()
        command = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count, *block)
        reply = self._redis.ask(*command, "STREAMS", self._stream, ">")
        return list(reply[0][1]) if reply else []

    def take_over(
        self, held: Collection[bytes], idle: float, count: int, known: Mapping[str, float | None] | None = None
    ) -> tuple[list[Entry], set[str]]:
        """Take this consumer's messages that are not `held`, and those that others left idle for `idle` seconds;
        `known` consumers have a time of their own, None: never. Return them, and whose they were."""
        own = [(name, -1 if time is None else int(time * 1000)) for name, time in (known or {}).items()]
        args = [self._group, self._consumer, int(idle * 1000), count, len(own), *chain.from_iterable(own), *held]
        claimed = self._redis.call("claim", [self._stream], args)
        entries = [(entry, dict(zip(parts[::2], parts[1::2], strict=True))) for entry, parts, _ in claimed]
        return entries, {consumer.decode(errors="replace") for *_, consumer in claimed}

    def finish(self, entries: Sequence[bytes]) -> int:
        """Acknowledge and delete messages; return how many were pending."""
        done = 0
        for start in range(0, len(entries), _PAGE):
            done += self._redis.call("finish", [self._stream], [self._group, *entries[start : start + _PAGE]])
        return done

    def dead_letter(self, entry: bytes, payload: bytes | str, reason: str) -> None:
        failed_at = clock.utc().isoformat(timespec="microseconds").replace("+00:00", "Z")
        fields = ["original_id", entry, "payload", payload, "reason", reason, "failed_at", failed_at]
        if self._apart:
            # A crash between the two steps leaves the message pending: it is moved again, a duplicate at worst.
            self._redis.ask("XADD", self._dead_letters, "*", *fields)
            self.finish([entry])
        else:
            self._redis.call("dead_letter", [self._stream, self._dead_letters], [self._group, entry, *fields])

    def set_idle(self, entries: Sequence[bytes], idle: float) -> None:
        """Set the idle time (seconds) of messages that are still this consumer's: others take over what is idle."""
        for start in range(0, len(entries), _PAGE):
            args = [self._group, self._consumer, int(idle * 1000), *entries[start : start + _PAGE]]
            self._redis.call("idle", [self._stream], args)

    def tidy(self, start: bytes = b"-") -> bytes:
        """Delete messages that other programs acknowledged and left in the stream, if this is its only group; return
        where to go on, `-` once all were looked at."""
        return bytes(self._redis.call("tidy", [self._stream], [self._group, start, _PAGE])) or b"-"

    def last_taken(self) -> bytes:
        """Return the id of the last entry delivered to a consumer."""
        groups = self._redis.call("groups", [self._stream])
        return next((bytes(last) for name, last in groups if name.decode() == self._group), b"0-0")

    def taken_before(self, entry: bytes) -> Iterator[Entry]:
        """Yield the unfinished messages before an entry, of all consumers."""
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
    """The sort key of an entry id."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)
