"""Control of tasks: cancel, reschedule, replay, delete; pause and resume a type, which is its limiter `type:NAME`.

Each writes the two stores in an order in which the reconciler repairs a fault between them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sytq.broker.limiters import Limiters, Resumed, TypePause
from sytq.broker.operations import Operations
from sytq.errors import InvalidInput
from sytq.ledger.database import locked, read, transact
from sytq.ledger.deletion import delete_ended
from sytq.ledger.dependencies import OnFailure, reopen, skipped_among
from sytq.ledger.events import Event
from sytq.ledger.hold import EVERY_TYPE
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Pause, Task
from sytq.ledger.values import to_ms, utcnow
from sytq.service.recording import Recording
from sytq.service.submission import Submitter
from sytq.states import CANCELLED, DEAD, QUEUED, RETRYING, RUNNING, SCHEDULED
from sytq.tasktypes.registry import Registry

_BATCH = 500


class Operator:
    """Every method raises DatabaseUnavailable and RedisUnavailable."""

    def __init__(
        self,
        ledger: Ledger,
        operations: Operations,
        limiters: Limiters,
        submitter: Submitter,
        recording: Recording,
        registry: Registry,
    ) -> None:
        self._ledger = ledger
        self._operations = operations
        self._limiters = limiters
        self._submitter = submitter
        self._recording = recording
        self._registry = registry

    def cancel(self, task_id: str, by: str) -> str:
        """Cancel a task: returns cancelled (it waited), asked (it is interrupted), or ended (too late).

        Raises InvalidInput for an unknown id.
        """
        answer = self._operations.cancel(task_id, by)
        if answer != "unknown":
            return answer
        row = self._row(task_id)
        if row.state in (QUEUED, SCHEDULED, RETRYING):
            # Redis does not know the task (it was emptied, or the dispatch is to come), so the row decides; a later
            # dispatch finds that the row has ended.
            error = f"cancelled by {by}"
            end = Event(task_id, CANCELLED, row.token, row.attempts, finished_at=utcnow(), error=error)
            self._recording.record([end])
            # The task may have been dispatched since, and must not run.
            answer = self._operations.cancel(task_id, by)
            return "cancelled" if answer == "unknown" else answer
        if row.state != RUNNING:
            return "ended"
        # Its worker re-registers it, or has died and another starts it: both find the request.
        self._operations.ask(task_id, by)
        return "asked"

    def reschedule(self, task_id: str, when: dt.datetime) -> bool:
        """Move a scheduled task to `when` (aware; the past runs it now); False when it does not wait for a time."""
        moment = when.astimezone(dt.UTC)
        query = Task.update(scheduled_at=moment.replace(tzinfo=None)).where(
            Task.id == self._row(task_id).id, Task.state.in_((SCHEDULED, RETRYING))
        )
        # The row first: an emptied Redis is filled from it.
        in_row = bool(transact(self._ledger.database, query.execute))
        moved = self._operations.reschedule(task_id, int(moment.timestamp() * 1000))
        return in_row if moved is None else moved

    def replay(self, ids: Sequence[str]) -> int:
        """Run dead or cancelled tasks again, with all their attempts; return their number.

        A task whose unique key now belongs to another unfinished task stays as it is. Tasks that were skipped because
        of these tasks wait for them again.
        """
        revived = 0
        for start in range(0, len(ids), _BATCH):
            rows = transact(self._ledger.database, partial(self._replay, list(ids[start : start + _BATCH])))
            self._operations.revive([row.id for row in rows])
            self._submitter.dispatch(rows)
            revived += len(rows)
        return revived

    def delete(self, ids: Sequence[str]) -> int:
        """Delete ended tasks, with everything kept of them; return their number.

        A task stays while an unfinished parent or dependent may read its outcome.
        """
        parts = [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
        return sum(transact(self._ledger.database, partial(delete_ended, part)) for part in parts)

    def pause(self, type_name: str, by: str, why: str) -> None:
        """Start no task of a type until `resume`; running tasks continue. Raises InvalidInput."""
        self._registry.get(type_name)
        query = Pause.insert(**_pause(type_name, by, why)).on_conflict_replace()
        transact(self._ledger.database, query.execute)
        self.restore_pauses()

    def resume(self, type_name: str) -> Resumed:
        """Resume a type, whoever paused it, and close its circuit breaker; false when there was nothing to end."""
        gone = transact(self._ledger.database, Pause.delete().where(Pause.type == type_name).execute)
        resumed = self._resume(type_name)
        return replace(resumed, held="paused") if gone and not resumed else resumed

    def pause_queue(self, queue: str, by: str, why: str) -> list[str]:
        """Pause the types of a queue that are not paused yet, all or none, and return them. Raises InvalidInput."""
        names = self.types_of(queue)

        def work() -> list[str]:
            paused = {row.type for row in locked(Pause.select().where(Pause.type.in_(names)))}
            new = [name for name in names if name not in paused]
            if new:
                Pause.insert_many([_pause(name, by, why) for name in new]).on_conflict_replace().execute()
            return new

        paused = transact(self._ledger.database, work)
        self.restore_pauses()
        return paused

    def resume_queue(self, queue: str) -> list[str]:
        """Resume the paused types of a queue, whoever paused them, and return them. Raises InvalidInput."""
        names = self.types_of(queue)

        def work() -> list[str]:
            paused = sorted(row.type for row in locked(Pause.select().where(Pause.type.in_(names))))
            Pause.delete().where(Pause.type.in_(paused)).execute()
            return paused

        resumed = transact(self._ledger.database, work)
        self.restore_pauses()
        return resumed

    def types_of(self, queue: str) -> list[str]:
        """The installed types of a queue. Raises InvalidInput where there is none."""
        names = sorted(declared.name for declared in self._registry if declared.queue == queue)
        if not names:
            raise InvalidInput("queue", f"no installed task type has the queue '{queue[:64]}'")
        return names

    def pauses(self) -> list[Pause]:
        return read(
            self._ledger.database, lambda: list(Pause.select().where(Pause.type != EVERY_TYPE).order_by(Pause.type))
        )

    def restore_pauses(self) -> None:
        """Write the ledger's pauses to Redis, which may have lost them."""
        wanted = {row.type: row for row in self.pauses()}
        known = self._limiters.type_pauses()
        for type_name in known.keys() - wanted.keys():
            if known[type_name].person is not False:  # else a task paused it
                self._resume(type_name)
        for type_name, row in wanted.items():
            if known.get(type_name) != TypePause(row.paused_by, row.paused_why, person=True):
                since_ms = to_ms(row.paused_at)
                self._limiters.pause(f"type:{type_name}", row.paused_by, row.paused_why, since_ms=since_ms)
        self._operations.unpark()

    def _resume(self, type_name: str) -> Resumed:
        resumed = self._limiters.resume(f"type:{type_name}")
        self._operations.unpark()
        return resumed

    def _replay(self, ids: list[str]) -> list[Task]:
        # Tasks of a workflow run in its order: those that depend on others of `ids` wait again.
        dependents = skipped_among(ids)
        rows = self._revive([task_id for task_id in ids if task_id not in dependents])
        again = [row.id for row in rows]
        while again := reopen(again):
            again = [row.id for row in self._revive(again, held="cancel")]
        return rows

    def _revive(self, ids: list[str], held: OnFailure | None = None) -> list[Task]:
        now = utcnow()
        rows = locked(Task.select().where(Task.id.in_(ids), Task.state.in_((DEAD, CANCELLED))))
        keys = {row.id: key for row in rows if (key := self._unique_key(row))}
        taken = self._ledger.reserve(keys)  # by another unfinished task
        rows = [row for row in rows if row.id not in taken]
        for row in rows:
            row.state, row.attempts, row.finished_at, row.revived_at = QUEUED, 0, None, now
            row.scheduled_at = None  # runs now, even if cancelled before its time
            row.held = held
            row.token += 1  # so that a re-read older event changes nothing
        fields: dict[str, Any] = {"state": SCHEDULED if held else QUEUED, "held": held, "attempts": 0}
        fields |= {"finished_at": None, "scheduled_at": None, "revived_at": now}
        if held:
            fields["error"] = None  # the reason why it was skipped
        fields["token"] = Task.token + 1
        Task.update(fields).where(Task.id.in_([row.id for row in rows])).execute()
        return rows

    def _unique_key(self, row: Task) -> str | None:
        if row.unique_key is not None or row.type not in self._registry:
            return row.unique_key
        declared = self._registry.get(row.type)  # a row that another program inserted
        try:
            return declared.unique_key(declared.parse(json.loads(row.payload), row.version))
        except Exception:  # may come from the type's own `upgrade`
            return None  # the task will die again, with the reason

    def _row(self, task_id: str) -> Task:
        row = self._ledger.get(task_id)
        if row is None:
            raise InvalidInput("id", f"there is no task '{task_id[:64]}'")
        return row


def _pause(type_name: str, by: str, why: str) -> dict[str, Any]:
    return {"type": type_name, "paused_at": utcnow(), "paused_by": by[:64], "paused_why": why[:255]}
