"""The wire format of a task stream, and a producer and a consumer in Python.

A `Consumer` must not share a group with sytq.streams.loop, as each message is delivered to one of the two.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sytq import gojson
from sytq.broker.connection import NoGroup, Redis
from sytq.errors import InvalidInput
from sytq.streams.codec import ExternalStream

STREAM = "goodshunter:task:queue"
GROUP = "scheduler_group"
EXECUTE, STOP = ACTIONS = ("execute", "stop")
#: Of a message whose producer names none.
_NO_SOURCE = "unknown"
_NAMES = frozenset(("task_id", "action", "timestamp", "retry", "source"))

_MOST = (1 << 64) - 1
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `fields` is all of it; `timestamp` is as the producer wrote it; `retry` counts attempts used."""

    id: str
    task_id: int
    action: str
    source: str | None
    timestamp: str | None
    retry: int
    fields: Mapping[str, Any]

    def raised(self, retries: int) -> str:
        """The message as JSON, after so many further attempts."""
        return json.dumps({**self.fields, "retry": self.retry + retries}, ensure_ascii=False, separators=(",", ":"))


def read_message(entry: bytes, fields: Mapping[bytes, bytes]) -> Message:
    """Parse a stream entry, as the Go consumer reads it. Raises InvalidInput naming the field."""
    data = fields.get(b"data")
    if data is None:
        raise InvalidInput("data", "missing; valid: the message as JSON")
    try:
        value = gojson.parse(data)
    except ValueError:
        raise InvalidInput("data", "not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise InvalidInput("data", "not a JSON object")
    value = gojson.with_names(value, _NAMES)
    action, source = value.get("action"), value.get("source")
    if action not in ACTIONS:
        raise InvalidInput("action", f"{_shown(action)} is not valid; valid: {', '.join(ACTIONS)}")
    if source is not None and not isinstance(source, str):
        raise InvalidInput("source", f"{_shown(source)} is not valid; valid: a word")
    retry = value.get("retry")
    if retry is not None and not (type(retry) is int and 0 <= retry <= _MOST):
        raise InvalidInput("retry", f"{_shown(retry)} is not valid; valid: a whole number from 0")
    timestamp = value.get("timestamp")
    if timestamp is not None and not _is_time(timestamp):
        raise InvalidInput("timestamp", f"{_shown(timestamp)} is not valid; valid: RFC 3339")
    return Message(
        id=entry.decode(),
        task_id=check_task_id(value.get("task_id")),
        action=action,
        source=source,
        timestamp=timestamp,
        retry=retry or 0,
        fields=value,
    )


def check_task_id(value: object) -> int:
    """Return a task id that a message can carry. Raises InvalidInput."""
    if type(value) is not int or not 1 <= value <= _MOST:
        raise InvalidInput("task_id", f"{_shown(value)} is not valid; valid: a whole number from 1")
    return value


class Producer:
    """Writes to a task stream. `url` is any redis URL that sytq knows. All methods raise RedisUnavailable."""

    def __init__(self, url: str, stream: str = STREAM) -> None:
        self._redis = Redis(url, home=stream)
        self._stream = stream

    def submit_task(self, task_id: int, source: str) -> str:
        """Ask for a task and return the entry's id; `source` is any word. Raises InvalidInput."""
        return self.submit_tasks([(task_id, source)])[0]

    def submit_tasks(self, tasks: Iterable[tuple[int, str]]) -> list[str]:
        """Ask for many tasks (id, source), 500 in a round trip, and return the entries' ids. Raises InvalidInput."""
        return self._append([_data(task_id, EXECUTE, source) for task_id, source in tasks])

    def stop_task(self, task_id: int) -> str:
        """Ask to cancel the task of this id and return the entry's id. Raises InvalidInput."""
        return self._append([_data(task_id, STOP, "system")])[0]

    def queue_length(self) -> int:
        """Return how many messages are not yet finished."""
        return int(self._redis.ask("XLEN", self._stream))

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _append(self, messages: Sequence[str]) -> list[str]:
        ids: list[str] = []
        for start in range(0, len(messages), 500):
            ids += [id.decode() for id in self._redis.call("append", [self._stream], messages[start : start + 500])]
        return ids


@dataclass(frozen=True, slots=True)
class Pending:
    """A message being worked on: its consumer, for how many seconds, and how often it was handed out."""

    id: str
    consumer: str
    idle: float
    deliveries: int


class Consumer:
    """Reads a task stream in a group, for programs that do the work themselves.

    Messages that another consumer has not acknowledged for `takeover` seconds, or that an earlier consumer of the same
    `name` left, are handed out again. All methods raise RedisUnavailable.
    """

    def __init__(
        self, url: str, stream: str = STREAM, group: str = GROUP, name: str | None = None, *, takeover: float = 300.0
    ) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._redis = Redis(url, home=stream)
        self._stream = stream
        self._group = group
        self._external = ExternalStream(self._redis, stream, group, self.name, f"{stream}:dlq")
        self._takeover = takeover
        self._unfinished: set[bytes] = set()

    def read(self, count: int = 10, wait: float = 1.0) -> list[Message]:
        """Take up to `count` messages, waiting up to `wait` seconds (at most 4) for the first.

        Messages that cannot be parsed go to the dead letters instead.
        """
        try:
            entries, _ = self._external.take_over(self._unfinished, self._takeover, count)
            entries = entries or self._external.read(count, min(wait, 4.0))
        except NoGroup:
            self._external.make_group()
            entries = self._external.read(count, min(wait, 4.0))
        messages = []
        for entry, fields in entries:
            try:
                messages.append(read_message(entry, fields))
                self._unfinished.add(entry)
            except InvalidInput as error:
                self._external.dead_letter(entry, raw(fields), str(error))
        return messages

    def ack(self, id: str) -> bool:
        """Finish a message: it leaves the stream. False when it was finished before."""
        return self.ack_batch([id]) == 1

    def ack_batch(self, ids: Iterable[str]) -> int:
        """Finish messages and return how many were pending."""
        entries = [id.encode() for id in ids]
        done = self._external.finish(entries)
        self._unfinished.difference_update(entries)
        return done

    def pending(self, limit: int = 1000) -> list[Pending]:
        """Return the pending messages of all consumers of the group, oldest first."""
        try:
            rows = self._redis.call("pending", [self._stream], [self._group, limit])
        except NoGroup:
            return []
        return [Pending(id.decode(), name.decode(), idle / 1000, times) for id, name, idle, times in rows]

    def close(self) -> None:
        """Close the connection; unacknowledged messages are handed out again after `takeover`."""
        self._redis.close()


def raw(fields: Mapping[bytes, bytes]) -> bytes | str:
    """Return the content of an entry, for the dead letters."""
    if b"data" in fields:
        return fields[b"data"]
    return json.dumps({name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()})


def _data(task_id: int, action: str, source: str) -> str:
    if not isinstance(source, str):
        raise InvalidInput("source", f"{_shown(source)} is not valid; valid: a word")
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    now = dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None)
    message = {
        "task_id": check_task_id(task_id),
        "action": action,
        "timestamp": f"{now.isoformat()}.{nanoseconds:09d}Z",
        "retry": 0,
        "source": source or _NO_SOURCE,
    }
    return json.dumps(message, separators=(",", ":"))


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return False
    try:
        dt.datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]
