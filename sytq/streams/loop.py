"""The loop of an external stream: each message becomes a task, and leaves the stream when that task has ended.

The order is: message taken, task accepted, task ended, message acknowledged. A task's id follows from its message, so
repeating a step after a crash is harmless.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from sytq.broker.connection import NoGroup, Redis
from sytq.broker.inspection import Inspection
from sytq.broker.state_index import Live
from sytq.config.sections import Stream
from sytq.errors import DatabaseUnavailable, InvalidInput, RedisUnavailable
from sytq.executor.executor import Executor
from sytq.executor.slots import SlotKind
from sytq.ids import derived_id
from sytq.ledger.database import read
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Task, UniqueKey
from sytq.observability.outages import log_failure
from sytq.service.control import Operator
from sytq.service.submission import Submitter
from sytq.states import DEAD, QUEUED, TERMINAL
from sytq.streams.client import STOP, Message, raw, read_message
from sytq.streams.codec import Entry, ExternalStream
from sytq.streams.stops import Stops
from sytq.tasktypes.registry import Registry
from sytq.tasktypes.templates import fill
from sytq.worker.loops.loop import Loop

log = structlog.get_logger(__name__)

#: Messages of one read, and of one transaction.
_MAX_BATCH = 100
_PAGE = 500
#: Seconds that a read waits for a message when no message is held, and between two looks at the held messages.
_IDLE, _QUICK, _SLOW = 0.5, 0.005, 0.1
#: Seconds between two looks for messages of silent consumers and for messages that others left in the stream.
_TAKEOVER = 0.5
#: Seconds between two signs that the held messages are being worked on: another program of the group may claim what is
#: idle for a minute.
_TOUCH = 15.0
#: The "parent" of all tasks that come from messages.
_SERIES = str(uuid.UUID("57e4a11e-0000-4000-8000-000000000000"))


@dataclass(slots=True)
class _Held:
    """A message that waits for the end of its task."""

    message: Message
    task_id: str


class StreamLoop(Loop):
    """Reads one stream in one worker process, and takes no more messages than this worker can start."""

    def __init__(
        self,
        settings: Stream,
        redis: Redis,
        executor: Executor,
        registry: Registry,
        ledger: Ledger,
        submitter: Submitter,
        operator: Operator,
        inspection: Inspection,
    ) -> None:
        super().__init__(f"stream {settings.stream}")
        self._settings = settings
        self._stream = ExternalStream(redis, settings.stream, settings.group, executor.name, settings.dead_letters)
        self._executor = executor
        self._slot: SlotKind = "loop" if registry.get(settings.type).is_async else "thread"
        self._ledger = ledger
        self._submitter = submitter
        self._operator = operator
        self._inspection = inspection
        self._held: dict[bytes, _Held] = {}
        self._stops = Stops(self._stream, self._cancel)
        self._waiting: set[str] = set()  # ids of held tasks that need a slot: no worker has started them
        self._pause = _QUICK
        self._taken_over = self._touched = self._asked = 0.0
        self._tidy_from = b"-"
        self._log = log.bind(stream=settings.stream)

    def step(self) -> float:
        try:
            return self._read_and_finish()
        except NoGroup:
            # A new stream, or an emptied Redis: lost messages cannot be acknowledged; their tasks continue.
            self._held.clear()
            self._stops.clear()
            self._stream.make_group()
            return 0.0
        except (RedisUnavailable, DatabaseUnavailable):
            self._taken_over = 0.0  # a message read but not kept is pending for this worker
            raise

    def run(self) -> None:
        super().run()
        try:
            self._finish(self._ended())
            self._stream.set_idle(self._ours(), max(self._executor.lease, self._settings.claim_idle))
        except (RedisUnavailable, DatabaseUnavailable) as error:
            log_failure(self._log, "messages left for takeover", error)

    def _read_and_finish(self) -> float:
        if time.monotonic() - self._touched >= _TOUCH:  # first: what follows may wait for the database
            self._stream.set_idle(self._ours(), 0)
            self._touched = time.monotonic()
        ended = self._ended()
        free, wait = 0, 0.0
        if not self._executor.stopping.is_set() and self._executor.may_start():
            if time.monotonic() - self._taken_over >= _TAKEOVER:
                self._take_over()
                self._tidy_from = self._stream.tidy(self._tidy_from)
            wait = 0.0 if ended else self._pause if self._held or self._stops.unfinished else _IDLE
            free = self._free_slots(wait)
        # Read before deleting: Redis 7 does not know the lag once the last delivered entry is gone.
        entries = self._stream.read(free, wait) if free else []
        self._take(entries)
        if not free:
            self._stops.look_ahead()
        self._stops.apply()
        self._finish(ended)
        self._pause = _QUICK if ended or entries else min(self._pause * 1.5, _SLOW)
        return 0.0 if free or ended else self._pause

    # -- taking messages

    def _free_slots(self, wait: float) -> int:
        slots = self._executor.slots
        free = slots.acquire({self._slot}, _MAX_BATCH, max(wait, 0.02))
        slots.release_unused({self._slot}, free, {})
        return max(0, free - len(self._waiting))

    def _take_over(self) -> None:
        """Take over messages of silent consumers, and this consumer's own after a lost reply or a fault.

        A worker's heartbeat tells that it died; of another program only silence can, and it may just be slow.
        """
        lease = self._executor.lease
        workers = {worker.name: None if worker.age < lease else lease for worker in self._inspection.workers()}
        found, whose = self._stream.take_over(self._ours(), self._settings.claim_idle, _MAX_BATCH, workers)
        if found:
            self._log.info("messages taken over", messages=len(found), consumers=sorted(whose))
            self._take(found, again=True)
        if len(found) < _MAX_BATCH:
            self._taken_over = time.monotonic()

    def _ours(self) -> list[bytes]:
        return [*self._held, *self._stops.taken]

    def _take(self, entries: Sequence[Entry], *, again: bool = False) -> None:
        self._stops.skip([entry for entry, _ in entries])
        new: dict[bytes, tuple[_Held, NewTask]] = {}
        for entry, fields in entries:
            if entry not in self._held and (pair := self._read(entry, fields)):
                new[entry] = pair
        if not new:
            return
        # A message's task may have been accepted, ended and forgotten in Redis before the takeover.
        known = self._ledger.some([held.task_id for held, _ in new.values()]) if again else {}
        self._accept({entry: task for entry, (_, task) in new.items() if task.id not in known}, new)
        for entry, (held, _) in new.items():
            self._held[entry] = held
            self._waiting.add(held.task_id)

    def _read(self, entry: bytes, fields: Mapping[bytes, bytes]) -> tuple[_Held, NewTask] | None:
        """Return the task of a message; None for a stop or an invalid message."""
        try:
            message = read_message(entry, fields)
            if message.action == STOP:
                self._stops.take(entry, message)
                return None
            if self._stops.covers(entry, message):
                self._stream.finish([entry])
                self._log.info("task stopped before its start", stream_task=message.task_id)
                return None
            task = self._prepare(message)
            return _Held(message, task.id), task
        except InvalidInput as error:
            self._dead_letter(entry, raw(fields), str(error))
            return None

    def _prepare(self, message: Message) -> NewTask:
        settings = self._settings
        payload = message.fields if settings.payload is None else fill(settings.payload, message.fields)
        task = self._submitter.prepare(settings.type, payload, id=message_task_id(settings.stream, message.id))
        attempts = max(1, settings.max_retries + 1 - message.retry)
        return dataclasses.replace(task, max_attempts=attempts, retry_delay=settings.retry_delay)

    def _accept(self, tasks: Mapping[bytes, NewTask], new: dict[bytes, tuple[_Held, NewTask]]) -> None:
        """Submit tasks; a task that cannot be stored is removed from `new` and does not hold up the others."""
        if not tasks:
            return
        try:
            acceptances = self._submitter.submit(list(tasks.values()))
        except (DatabaseUnavailable, RedisUnavailable):
            raise
        except Exception as error:
            if len(tasks) > 1:
                for entry, task in tasks.items():
                    self._accept({entry: task}, new)
                return
            ((entry, _),) = tasks.items()
            self._log.exception("a message cannot become a task", entry=entry.decode())
            held, _ = new.pop(entry)
            self._dead_letter(entry, held.message.raised(0), f"its task cannot be stored ({type(error).__name__})")
            return
        for entry, accepted in zip(tasks, acceptances, strict=True):
            # If the unique key is taken, the id of the existing task: this message ends with it.
            new[entry][0].task_id = accepted.id

    # -- finishing messages

    def _ended(self) -> list[tuple[bytes, Task | None]]:
        """Return the messages of ended tasks, each with its row if the task is dead."""
        live: dict[str, Live] = {}
        ids = sorted({held.task_id for held in self._held.values()})
        for start in range(0, len(ids), _PAGE):
            live |= self._inspection.live(ids[start : start + _PAGE])
        self._waiting = {id for id in ids if id not in live or live[id].state == QUEUED}
        # Only the row has a dead task's error, and the state of a task that Redis does not know.
        unclear = {id for id in ids if id not in live or live[id].state == DEAD}
        ended: list[tuple[bytes, Task | None]] = [
            (entry, None)
            for entry, held in self._held.items()
            if held.task_id not in unclear and live[held.task_id].state in TERMINAL
        ]
        return ended + self._ended_in_rows(unclear)

    def _ended_in_rows(self, ids: set[str]) -> list[tuple[bytes, Task | None]]:
        """Return the same for these tasks by their rows, at most every `_SLOW` seconds."""
        if not ids or time.monotonic() - self._asked < _SLOW:
            return []
        rows = self._ledger.some(ids)
        self._asked = time.monotonic()
        ended: list[tuple[bytes, Task | None]] = []
        for entry, held in self._held.items():
            row = rows.get(held.task_id)
            # A task without a row has ended and was deleted.
            if held.task_id in ids and (row is None or row.state in TERMINAL):
                ended.append((entry, row if row is not None and row.state == DEAD else None))
        return ended

    def _finish(self, ended: list[tuple[bytes, Task | None]]) -> None:
        done = [entry for entry, dead in ended if dead is None]
        self._stream.finish(done)
        for entry, dead in ended:
            if dead is not None:
                retries = max(dead.attempts - 1, 0)
                self._dead_letter(entry, self._held[entry].message.raised(retries), dead.error or "the task is dead")
            del self._held[entry]

    def _dead_letter(self, entry: bytes, payload: bytes | str, reason: str) -> None:
        self._stream.dead_letter(entry, payload, reason)
        self._log.error("message moved to the dead letters", entry=entry.decode(), reason=reason[:200])

    def _cancel(self, entry: bytes, message: Message) -> bool:
        """Cancel a message's task; False when the worker with the message has not accepted the task yet."""
        held = self._held.get(entry)
        own = held.task_id if held else message_task_id(self._settings.stream, message.id)
        candidates: tuple[Callable[[], str | None], ...] = (lambda: own, lambda: self._holder(message))
        for find in candidates:
            with contextlib.suppress(InvalidInput):  # there is no such task
                if (task_id := find()) is not None:
                    self._operator.cancel(task_id, f"stop from {self._settings.stream}")
                    return True
        return False

    def _holder(self, message: Message) -> str | None:
        """Return the unfinished task with the unique key of this message's task. Raises InvalidInput."""
        key = self._prepare(message).unique_key
        if key is None:
            return None
        row = read(self._ledger.database, lambda: UniqueKey.get_or_none(UniqueKey.unique_key == key))
        return None if row is None else str(row.task_id)


def message_task_id(stream: str, entry: str) -> str:
    return derived_id(_SERIES, f"{stream}:{entry}")
