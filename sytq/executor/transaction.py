"""One SQL transaction of a running task: its own rows, and tasks that exist exactly if it commits.

Children's ids follow from their keys, so a later attempt repeats none. Must not begin or end the transaction:
`ctx.transaction` does.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Required, Unpack

import peewee
from typing_extensions import TypedDict

from sytq.broker.delivery import Delivery
from sytq.ids import derived_id
from sytq.ledger import steps
from sytq.ledger.database import execute
from sytq.ledger.dependencies import OnFailure, extend
from sytq.ledger.insert import Accepted, Existing
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import Step, Task
from sytq.ledger.values import utcnow
from sytq.service.submission import SubmissionOptions, Submitter

#: Prefix of the checkpoint that names the existing task in place of a child.
_EXISTING = "child "
_PAGE = 500
_FOUND = (
    "SELECT id, owner, NULL FROM sytq_tasks WHERE id IN (?, {0})"
    " UNION ALL SELECT name, NULL, value FROM sytq_steps WHERE task_id = ? AND name IN ({0})"
)


class Child(TypedDict, total=False):
    """What a task says of a child beside type and payload. The same `key` is one task, however often its parent runs.

    With `after` (ids of existing tasks) it runs once all of these have ended: `on_failure="cancel"` cancels it as soon
    as one of them is dead or cancelled, `"run"` runs it all the same. With `joins` the dependents of the parent depend
    on the child too.
    """

    key: Required[str]
    run_at: dt.datetime | None
    after: Sequence[str]
    on_failure: OnFailure
    joins: bool


class Transaction:
    """Inside `ctx.transaction`: the database, and tasks that exist exactly if the transaction commits."""

    def __init__(self, ledger: Ledger, submitter: Submitter, delivery: Delivery) -> None:
        self._ledger = ledger
        self._submitter = submitter
        self._parent = delivery
        self.database: peewee.Database = ledger.database
        self.tasks: list[NewTask] = []

    def enqueue(
        self,
        type_name: str,
        payload: object,
        *,
        key: str,
        run_at: dt.datetime | None = None,
        after: Sequence[str] = (),
        on_failure: OnFailure = "cancel",
        joins: bool = False,
    ) -> str:
        """Insert a task and return its id; see `Child`. Raises InvalidInput."""
        (task_id,) = self._insert(type_name, {key: payload}, run_at=run_at, after=after, on_failure=on_failure)
        if joins:
            extend(self.database, self._parent.id, task_id)
        return task_id

    def enqueue_many(self, type_name: str, payloads: Mapping[str, object]) -> list[str]:
        """Insert a task for each key and payload and return their ids, in this order, by a few statements for all."""
        return self._insert(type_name, payloads)

    def mark(self, name: str) -> bool:
        """Record that something is done, as a step of this name without a result; False where it was before."""
        return steps.mark(self.database, self._parent.id, self._parent.token, name)

    def _insert(
        self, type_name: str, payloads: Mapping[str, object], **options: Unpack[SubmissionOptions]
    ) -> list[str]:
        if not payloads:
            return []
        ids = {derived_id(self._parent.id, key): payload for key, payload in payloads.items()}
        # A child (or the task that existed in its place) of an earlier attempt stays, even with another payload, and
        # even if it has ended since.
        there, earlier, owner = self._found(list(ids))
        common: SubmissionOptions = {
            **options,
            "owner": owner,
            "parent": self._parent.id,
            "request_id": self._parent.request_id,
            "traceparent": self._parent.traceparent,
        }
        new: list[NewTask] = []
        for task_id, payload in ids.items():
            if task_id not in there and task_id not in earlier:
                child: SubmissionOptions = {**common, "id": task_id}
                new.append(self._submitter.prepare(type_name, payload, **child))
        inserted = list(zip(new, self._ledger.insert(new), strict=True))
        self.tasks += [task for task, found in inserted if isinstance(found, Accepted)]
        existing = {task.id: found.id for task, found in inserted if isinstance(found, Existing)}
        self._remember(existing)
        existing |= earlier
        return [existing.get(task_id, task_id) for task_id in ids]

    def _found(self, ids: Sequence[str]) -> tuple[set[str], dict[str, str], str | None]:
        """Return the children among `ids` that have rows, the tasks that existed in place of others in an earlier
        attempt, and the parent's owner."""
        parent, names = self._parent.id, [_EXISTING + task_id for task_id in ids]
        sql = _FOUND.format(", ".join("?" * len(ids)))
        rows = execute(self.database, sql, parent, *ids, parent, *names).fetchall()
        owners = {name: owner for name, owner, value in rows if value is None}
        earlier = {name.removeprefix(_EXISTING): json.loads(value) for name, _, value in rows if value is not None}
        if earlier:  # it may have been deleted since
            left = {row.id for row in Task.select(Task.id).where(Task.id.in_(list(earlier.values())))}
            earlier = {task_id: found for task_id, found in earlier.items() if found in left}
        owner = owners.pop(parent, None)
        return set(owners), earlier, owner

    def _remember(self, existing: Mapping[str, str]) -> None:
        """Write checkpoints of the parent: the tasks that exist in place of children, whose ids have no rows."""
        now = utcnow()
        common = {"task_id": self._parent.id, "token": self._parent.token, "state": "done"}
        common |= {"started_at": now, "finished_at": now}
        rows = [common | {"name": _EXISTING + id, "value": json.dumps(found)} for id, found in existing.items()]
        for start in range(0, len(rows), _PAGE):
            Step.insert_many(rows[start : start + _PAGE]).on_conflict_replace().execute()
