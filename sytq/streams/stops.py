"""Stop messages of an external stream: each cancels the tasks of earlier messages with its `task_id`.

Stops are found also behind messages that no worker has a slot for yet, and kept until applied.
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

#: Seconds before a stop is tried again, while another worker is still accepting the task.
_AGAIN = 0.1


@dataclass(slots=True)
class _Stop:
    """A stop message: `taken` by this worker, or only seen behind messages without a slot."""

    message: Message
    taken: bool
    applied: bool = False  # all its existing tasks are cancelled


class Stops:
    """The stop messages of one stream in one worker. `cancel` returns False for a message without a task so far."""

    def __init__(self, stream: ExternalStream, cancel: Callable[[bytes, Message], bool]) -> None:
        self._stream = stream
        self._cancel = cancel
        self._stops: dict[bytes, _Stop] = {}
        self._seen = b"0-0"
        self._tried = 0.0

    @property
    def taken(self) -> list[bytes]:
        """The stop messages that are pending for this worker."""
        return [entry for entry, stop in self._stops.items() if stop.taken]

    @property
    def unfinished(self) -> bool:
        """Whether a stop needs another try soon."""
        return any(not stop.applied for stop in self._stops.values())

    def clear(self) -> None:
        """Forget all stops: the stream is a new one."""
        self._stops.clear()
        self._seen = b"0-0"

    def take(self, entry: bytes, message: Message) -> None:
        """Keep a stop message that Redis delivered to this worker."""
        self._stops[entry] = _Stop(message, taken=True)

    def skip(self, entries: Sequence[bytes]) -> None:
        """Do not look ahead at messages that Redis delivered to this worker."""
        self._seen = max((self._seen, *entries), key=order)

    def covers(self, entry: bytes, message: Message) -> bool:
        """Whether a stop was seen behind this message: its task need not start."""
        return any(
            stop.message.task_id == message.task_id and not stop.taken and order(entry) < order(id)
            for id, stop in self._stops.items()
        )

    def look_ahead(self) -> None:
        """Find stops among the next messages that no worker has taken; each message is read once."""
        for entry, fields in self._stream.after(self._seen):
            self._seen = entry
            message = _message(entry, fields) if b"stop" in fields.get(b"data", b"") else None
            if message and message.action == STOP:
                self._stops[entry] = _Stop(message, taken=False)

    def apply(self) -> None:
        """Cancel the tasks of the stops, and finish the applied stops."""
        pending = {entry: stop for entry, stop in self._stops.items() if stop.taken or not stop.applied}
        if not pending or time.monotonic() - self._tried < _AGAIN:
            return
        executes = self._executes(pending)
        for entry, stop in pending.items():
            earlier = [pair for pair in executes[stop.message.task_id] if order(pair[0]) < order(entry)]
            stop.applied = all([self._cancel(*execute) for execute in earlier])  # a list: every task is cancelled
            if stop.applied and (earlier or stop.taken):
                log.info("tasks stopped" if earlier else "nothing to stop", stream_task=stop.message.task_id)
        self._tried = time.monotonic()
        done = [entry for entry, stop in pending.items() if stop.applied and stop.taken]
        self._stream.finish(done)
        last = order(self._stream.last_taken())  # Redis has delivered what stands before it, here or to another worker
        kept = {entry: stop for entry, stop in self._stops.items() if stop.taken or order(entry) > last}
        self._stops = {entry: stop for entry, stop in kept.items() if entry not in done}

    def _executes(self, stops: dict[bytes, _Stop]) -> dict[int, list[tuple[bytes, Message]]]:
        """Return the unfinished execute messages before the last of these stops, by the task ids of the stops."""
        executes: dict[int, list[tuple[bytes, Message]]] = {stop.message.task_id: [] for stop in stops.values()}
        for entry, fields in self._stream.taken_before(max(stops, key=order)):
            message = _message(entry, fields)
            if message and message.action == EXECUTE and message.task_id in executes:
                executes[message.task_id].append((entry, message))
        return executes


def _message(entry: bytes, fields: dict[bytes, bytes]) -> Message | None:
    """Parse an entry; None when it is invalid (its consumer moves it to the dead letters)."""
    try:
        return read_message(entry, fields)
    except InvalidInput:
        return None
