"""Stop messages of an external stream: each cancels the work that messages in front of it asked for.

Owns finding them, also behind work that nobody has room for yet, and keeping each until it was heeded.
`sytq.streams.loop` cancels the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from sytq.errors import InvalidInput
from sytq.streams.client import EXECUTE, STOP, Message, read_message
from sytq.streams.codec import ExternalStream, order

log = structlog.get_logger(__name__)

#: The pace at which a stop is tried again whose task is only just being accepted, by another worker.
_AGAIN = 0.1


@dataclass(slots=True)
class _Stop:
    """A stop message: `taken` by us, or only seen while there was no room to take what stands in front of it."""

    message: Message
    taken: bool
    heeded: bool = False  # all its tasks that exist so far were cancelled


class Stops:
    """The stop messages of one stream in one worker. `cancel` says False for a message without a task as yet."""

    def __init__(self, stream: ExternalStream, cancel: Callable[[bytes, Message], bool]) -> None:
        self._stream = stream
        self._cancel = cancel
        self._stops: dict[bytes, _Stop] = {}
        self._seen = b"0-0"
        self._tried = 0.0

    @property
    def taken(self) -> list[bytes]:
        """The messages that are pending as ours."""
        return [entry for entry, stop in self._stops.items() if stop.taken]

    @property
    def open(self) -> bool:
        """Whether there is one to try again soon."""
        return any(not stop.heeded for stop in self._stops.values())

    def clear(self) -> None:
        """Forget all: the stream is another one."""
        self._stops.clear()
        self._seen = b"0-0"

    def take(self, entry: bytes, message: Message) -> None:
        """Keep a message that was handed to us."""
        self._stops[entry] = _Stop(message, taken=True)

    def passed(self, entries: Sequence[bytes]) -> None:
        """Note messages that were taken, so that they are not looked at again."""
        self._seen = max((self._seen, *entries), key=order)

    def covers(self, entry: bytes, message: Message) -> bool:
        """Whether a message need not begin, as a stop was seen behind it."""
        return any(
            stop.message.task_id == message.task_id and not stop.taken and order(entry) < order(id)
            for id, stop in self._stops.items()
        )

    def look_ahead(self) -> None:
        """See the next messages that nobody has taken; each is looked at once."""
        for entry, fields in self._stream.after(self._seen):
            self._seen = entry
            if b"stop" not in fields.get(b"data", b""):
                continue
            try:
                message = read_message(entry, fields)
            except InvalidInput:
                continue  # the worker that takes it over makes it a dead letter
            if message.action == STOP:
                self._stops[entry] = _Stop(message, taken=False)

    def heed(self) -> None:
        """Cancel what is to be cancelled, and finish the messages that asked for it."""
        stops = {entry: stop for entry, stop in self._stops.items() if stop.taken or not stop.heeded}
        if not stops or time.monotonic() - self._tried < _AGAIN:
            return
        wanted = {stop.message.task_id for stop in stops.values()}
        executes: dict[int, list[tuple[bytes, Message]]] = {task_id: [] for task_id in wanted}
        for entry, fields in self._stream.taken_before(max(stops, key=order)):
            try:
                message = read_message(entry, fields)
            except InvalidInput:
                continue
            if message.action == EXECUTE and message.task_id in wanted:
                executes[message.task_id].append((entry, message))
        for id, stop in stops.items():
            before = [pair for pair in executes[stop.message.task_id] if order(pair[0]) < order(id)]
            stop.heeded = all([self._cancel(*pair) for pair in before])
            if stop.heeded and (before or stop.taken):
                log.info("stopped" if before else "nothing to stop", stream_task=stop.message.task_id)
        self._tried = time.monotonic()
        done = [id for id, stop in stops.items() if stop.heeded and stop.taken]
        self._stream.finish(done)
        # One that was only seen is another worker's, once it was handed out.
        last = order(self._stream.last_taken())
        kept = {id: stop for id, stop in self._stops.items() if stop.taken or order(id) > last}
        self._stops = {id: stop for id, stop in kept.items() if id not in done}
