"""Recording: events become rows; followers are inserted and dependents released in the same transaction.

Followers of an ended task are its callback and the `on_dead` task of its type. Must not dispatch a task before its row
is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import structlog

from sytq.errors import InvalidInput
from sytq.ids import derived_id
from sytq.ledger import dependencies
from sytq.ledger.attempts import write_attempts, write_refused
from sytq.ledger.database import transact
from sytq.ledger.ends import end
from sytq.ledger.events import Event, write_states
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Task
from sytq.ledger.values import parsed, utcnow
from sytq.service.submission import DISPATCH_WITHIN, Origin, Submitter
from sytq.service.task_view import announcement
from sytq.states import CANCELLED, DEAD, DEFAULT_PRIORITY, RUNNING, TERMINAL
from sytq.tasktypes.declaration import ANNOUNCEMENT, Death
from sytq.tasktypes.payload import encode
from sytq.tasktypes.registry import Registry

log = structlog.get_logger(__name__)


class Recording:
    """Records events of tasks. Thread-safe."""

    def __init__(self, registry: Registry, ledger: Ledger, submitter: Submitter) -> None:
        self._registry = registry
        self._ledger = ledger
        self._submitter = submitter

    def record(
        self,
        events: Sequence[Event],
        ended: Sequence[str] = (),
        also: Callable[[], None] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Write a batch of events with its consequences, then dispatch the tasks that may run now. Idempotent.

        `ended` are tasks whose dependents may not have been released yet; unfinished ones are ignored. `also` writes
        first, in the same transaction; `again` says that some events may have been recorded before.
        Raises DatabaseUnavailable.
        """
        began = time.monotonic()
        tasks = self.write(events, ended, also, again=again)
        if time.monotonic() - began < DISPATCH_WITHIN:
            self._submitter.dispatch(tasks)

    def write(
        self,
        events: Sequence[Event],
        ended: Sequence[str] = (),
        also: Callable[[], None] | None = None,
        *,
        again: bool = False,
    ) -> list[NewTask | Task]:
        """Do the database part of `record`, in one transaction; return the tasks to dispatch."""
        return transact(self._ledger.database, partial(self._write, events, ended, also, again))

    def _write(
        self, events: Sequence[Event], ended: Sequence[str], also: Callable[[], None] | None, again: bool
    ) -> list[NewTask | Task]:
        if also:
            also()
        unwritten = write_attempts(self._ledger.database, events, again=again)
        followers: list[NewTask] = []
        ready: list[str] = []
        latest, ended = _latest(events), list(ended)
        while latest or ended:
            write_states(self._ledger.database, latest)
            ends = end(self._ledger.database, [event.id for event in latest if event.state in TERMINAL])
            followers += self._followers(ends.followed)
            released = dependencies.release([*ended, *ends.awaited], utcnow())
            ready += released.ready
            # Dependents cancelled because of these ends have ended too, and have dependents themselves.
            latest, ended = released.cancelled, []
        write_refused(self._ledger.database, unwritten)
        self._ledger.insert(followers)
        return [*followers, *(Task.select().where(Task.id.in_(ready)) if ready else ())]

    def _followers(self, ids: list[str]) -> list[NewTask]:
        rows = Task.select().where(Task.id.in_(ids)) if ids else ()
        return [follower for task in rows for follower in self._followers_of(task)]

    def _followers_of(self, task: Task) -> Iterator[NewTask]:
        # Their ids are derived from the end: a task that was replayed and ended again has others.
        end = f"{task.token}:{task.revived_at or ''}"
        origin: Origin = {
            "owner": task.owner,
            "parent": task.id,
            "request_id": task.request_id,
            "traceparent": task.traceparent,
        }
        if task.state in (DEAD, CANCELLED) and f"{task.type}.dead" in self._registry:
            death = Death(
                task_id=task.id,
                payload=parsed(task.payload),
                version=task.version,
                error=task.error,
                attempts=task.attempts,
                cancelled=task.state == CANCELLED,
            )
            yield self._submitter.prepare(f"{task.type}.dead", death, id=derived_id(task.id, f"dead:{end}"), **origin)
        if task.callback is not None:
            try:
                yield self._callback(task, derived_id(task.id, f"callback:{end}"), origin)
            except (InvalidInput, ValueError, TypeError) as error:
                # Another program wrote the row; other events are recorded all the same.
                log.error("callback refused", task_id=task.id, error=str(error)[:200])

    def _callback(self, task: Task, callback_id: str, origin: Origin) -> NewTask:
        payload = {**parsed(task.callback), "body": encode(announcement(task))}
        try:
            announcer = self._registry.of_role("announcement")
        except InvalidInput:
            log.warning("no task type announces ends here: callback left to other workers", task_id=task.id)
            # In the queue of the ended task, which some worker reads.
            queue = task.queue or self._registry.queue_of(task.type)
            return NewTask(callback_id, ANNOUNCEMENT, queue, DEFAULT_PRIORITY, encode(payload), **origin)
        return self._submitter.prepare(announcer.name, payload, id=callback_id, **origin)


def _latest(events: Iterable[Event]) -> list[Event]:
    """The last event of each task; an end comes after the start with the same token."""
    latest: dict[str, Event] = {}
    for event in events:
        seen = latest.get(event.id)
        if seen is None or (event.token, event.state != RUNNING) >= (seen.token, seen.state != RUNNING):
            latest[event.id] = event
    return list(latest.values())
