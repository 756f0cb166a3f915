"""The ledger: tasks are accepted and read, and attempts write their steps, fenced by their tokens.

All times are naive UTC; payloads and results are JSON text.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

import peewee
from peewee import Value

from sytq.errors import Lost
from sytq.ledger import dependencies, steps
from sytq.ledger.attempts import attempts_of
from sytq.ledger.database import execute, insert_ignore, read, transact
from sytq.ledger.insert import Accepted, Existing, write_new
from sytq.ledger.insert import NewTask as NewTask
from sytq.ledger.models import MODELS, Attempt, Step, Task, UniqueKey
from sytq.states import DEAD, QUEUED, RETRYING, RUNNING, SCHEDULED, TERMINAL, UNFINISHED

T = TypeVar("T")


class History(NamedTuple):
    """The attempts and steps of a task, each in order, and when the last of its dependencies ended, if it has any;
    `is_cut` is whether there are earlier attempts, which are not here."""

    attempts: list[Attempt]
    steps: list[Step]
    released_at: dt.datetime | None
    is_cut: bool = False


class Unfinished(NamedTuple):
    """An unfinished task; `created_at` as stored: SQLite compares text, and the digits of a second differ by writer."""

    state: str
    created_at: str
    id: str


_FENCE = f"UPDATE sytq_tasks SET token = ? WHERE {steps.HELD}"

#: The states in the order in which lost tasks are looked for: those that can run at once come first.
_SWEPT = (QUEUED, RUNNING, RETRYING, SCHEDULED)


class Ledger:
    """Reads and writes of our tables on one database. Every method raises DatabaseUnavailable."""

    def __init__(
        self, database: peewee.Database, ended: Callable[[Sequence[str]], Collection[str]] = lambda ids: ()
    ) -> None:
        """`ended(ids)` returns the tasks that have ended, even if their rows do not say so yet."""
        self.database = database
        self._has_ended = ended
        database.bind(MODELS)

    # -- submission

    def accept(self, tasks: Sequence[NewTask], also: Callable[[], None] | None = None) -> list[Accepted | Existing]:
        """Insert `tasks`, after whatever `also` writes, in one transaction; return the result for each, in their order.

        Raises InvalidInput for an `after` that is no task.
        """

        def work() -> list[Accepted | Existing]:
            if also:
                also()
            return self.insert(tasks)

        return transact(self.database, work)

    def insert(self, tasks: Sequence[NewTask]) -> list[Accepted | Existing]:
        """Insert `tasks` inside the caller's transaction and return the result for each, in their order.

        An existing row stays as it is. A task whose unique key belongs to an unfinished task is not inserted, and
        its dependents depend on that task. Raises InvalidInput for an `after` that is no task.
        """
        keys = {task.id: task.unique_key for task in tasks if task.unique_key}
        if keys:  # an existing row has its key, or has ended with it
            there = {row.id for row in Task.select(Task.id).where(Task.id.in_(list(keys)))}
            keys = {task_id: key for task_id, key in keys.items() if task_id not in there}
        existing = self.reserve(keys)
        new = [task.redirected(existing) if existing else task for task in tasks if task.id not in existing]
        write_new(self.database, new)
        if waits := {task.id: task.after for task in new if task.after}:
            dependencies.add(self.database, waits)
        return [Existing(existing[task.id]) if task.id in existing else Accepted(task.id) for task in tasks]

    def reserve(self, keys: dict[str, str]) -> dict[str, str]:
        """Reserve unique keys (task id -> key) inside the caller's transaction; return, for each task that does not get
        its key, the unfinished task that has it."""
        if not keys:
            return {}
        # In a fixed order, so that two batches with the same keys wait for each other rather than deadlock.
        wanted = sorted(keys, key=lambda task_id: keys[task_id])
        columns = {"task_id": wanted, "unique_key": [keys[task_id] for task_id in wanted]}
        insert_ignore(self.database, "sytq_unique", columns)
        query = UniqueKey.select().where(UniqueKey.unique_key.in_(list(keys.values())))
        holders = {row.unique_key: row.task_id for row in query}
        existing = {task_id: holders[key] for task_id, key in keys.items() if holders[key] != task_id}
        # The rows of this batch are not written yet.
        ended = self._ended_holders(set(existing.values()) - set(keys)) if existing else set()
        for task_id in [task_id for task_id, holder in existing.items() if holder in ended]:
            here = UniqueKey.unique_key == keys[task_id]
            if UniqueKey.update(task_id=task_id).where(here, UniqueKey.task_id == existing[task_id]).execute():
                del existing[task_id]
            else:  # another task, perhaps of this batch, has taken the key over
                existing[task_id] = UniqueKey.get(here).task_id
        return existing

    def _ended_holders(self, holders: set[str]) -> set[str]:
        """The holders of unique keys that have ended or have no row, as other programs write rows too."""
        there = {row.id for row in Task.select(Task.id).where(Task.id.in_(holders), Task.state.in_(UNFINISHED))}
        return (holders - there) | set(self._has_ended(list(there)) if there else ())

    # -- reading

    def get(self, task_id: str) -> Task | None:
        found: Task | None = read(self.database, lambda: Task.get_or_none(Task.id == task_id))
        return found

    def some(self, ids: Collection[str]) -> dict[str, Task]:
        """Return the rows of these tasks, by id; missing ids are left out."""
        query = Task.select().where(Task.id.in_(list(ids)))
        return read(self.database, lambda: {row.id: row for row in query})

    def find(
        self,
        *,
        states: Sequence[str] = (),
        queue: str | None = None,
        or_type: str | None = None,
        owner: str | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> tuple[list[Task], int]:
        """Return the newest matching tasks (of the queue, or of the type `or_type`), and the number of all matching
        ones."""
        where = [Task.state.in_(states)] if states else []
        if queue is not None:
            where.append(Task.queue == queue if or_type is None else (Task.queue == queue) | (Task.type == or_type))
        if owner is not None:
            where.append(Task.owner == owner)

        def work() -> tuple[list[Task], int]:
            query = Task.select().where(*where) if where else Task.select()
            page = query.order_by(Task.created_at.desc(), Task.id.desc()).limit(limit).offset(offset)
            return list(page), query.count()

        return read(self.database, work)

    def count_dead(self) -> int:
        """Return the number of dead tasks, from an index."""
        return read(self.database, lambda: int(Task.select().where(Task.state == DEAD).count()))

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts of a task, oldest first."""
        return read(self.database, lambda: attempts_of([task_id])[task_id])

    def steps(self, task_id: str) -> list[Step]:
        """Return the steps of a task in the order in which they began."""
        query = Step.select().where(Step.task_id == task_id).order_by(Step.started_at, Step.name)
        return read(self.database, lambda: list(query))

    def predecessors(self, task_id: str, limit: int = 100) -> list[Task]:
        """Return the unfinished tasks accepted before this one that have its ordering key, oldest first."""
        me, other = Task.alias(), Task.alias()
        earlier = (other.created_at < me.created_at) | ((other.created_at == me.created_at) & (other.id < me.id))
        query = (
            me.select(other.id, other.state, other.scheduled_at, other.started_at)
            .join(other, on=(other.ordering_key == me.ordering_key) & earlier)
            # A held task may depend on this one.
            .where(me.id == task_id, other.state.in_(UNFINISHED), other.held.is_null())
            .order_by(other.created_at, other.id)
            .limit(limit)
            .objects(Task)
        )

        def work() -> list[Task]:
            found = list(query)
            ended = set(self._has_ended([row.id for row in found])) if found else set()
            # When all of these have ended and more may follow, the last one stands for the rest.
            return [row for row in found if row.id not in ended] or found[limit - 1 :]

        return read(self.database, work)

    def histories(self, ids: Sequence[str]) -> dict[str, History]:
        """Return the histories of these tasks."""
        wanted = list(ids)
        steps = Step.select().where(Step.task_id.in_(wanted)).order_by(Step.task_id, Step.started_at, Step.name)

        def work() -> dict[str, History]:
            ends = dependencies.ends(wanted)
            found = {id: History(attempts, [], ends.get(id)) for id, attempts in attempts_of(wanted).items()}
            for step in steps:
                found[step.task_id].steps.append(step)
            return found

        return read(self.database, work)

    def latest_history(self, task_id: str, attempts: int) -> History:
        """Return the history of a task with at most so many attempts."""
        steps = Step.select().where(Step.task_id == task_id).order_by(Step.started_at, Step.name)

        def work() -> History:
            found = attempts_of([task_id], limit=attempts + 1)[task_id]
            ends = dependencies.ends([task_id])
            return History(found[-attempts:], list(steps), ends.get(task_id), is_cut=len(found) > attempts)

        return read(self.database, work)

    def unfinished(self, after: Unfinished | None, limit: int) -> list[Unfinished]:
        """Return up to `limit` unfinished tasks that may run, behind `after`: state by state, each oldest first."""

        def work() -> list[Unfinished]:
            found: list[Unfinished] = []
            for state in _SWEPT[_SWEPT.index(after.state) if after else 0 :]:
                where = [Task.state == state, Task.held.is_null()]
                if after and state == after.state:
                    created = Value(after.created_at, converter=False)  # as stored, see Unfinished
                    where.append(Task.created_at >= created)
                    where.append((Task.created_at > created) | (Task.id > after.id))
                query: Any = Task.select(Value(state), Task.created_at.cast("CHAR"), Task.id).where(*where)
                rows = query.order_by(Task.created_at, Task.id).limit(limit - len(found)).tuples()
                found += [Unfinished(*row) for row in rows]
                if len(found) == limit:
                    break
            return found

        return read(self.database, work)

    def newcomers(self, since: dt.datetime, after: str, limit: int) -> list[tuple[str, dt.datetime]]:
        """Return ids and times of tasks never started (nor held) that were created from `since` on, oldest first; of
        those created exactly then only ids above `after`."""
        later = (Task.created_at > since) | ((Task.created_at == since) & (Task.id > after))
        query = Task.select(Task.id, Task.created_at)
        may_start = Task.state.in_((QUEUED, SCHEDULED)), Task.held.is_null()
        query = query.where(*may_start, Task.created_at >= since, later)
        found: Any = query.order_by(Task.created_at, Task.id).limit(limit).tuples()
        return read(self.database, lambda: list(found))

    def still_unfinished(self, ids: Collection[str]) -> list[Task]:
        query = Task.select().where(Task.id.in_(list(ids)), Task.state.in_(UNFINISHED))
        return read(self.database, lambda: list(query))

    # -- what a running task writes

    def write(self, work: Callable[[], T]) -> T:
        """Run `work` in one transaction: that which several attempts share, or its own."""
        return work() if self.database.in_transaction() else transact(self.database, work)

    def fenced(self, task_id: str, token: int, work: Callable[[], T]) -> T:
        """Run `work` in one transaction, if the attempt with this fencing token still holds the task.

        Raises Lost when a later attempt holds the task or it has ended; nothing is written then.
        """

        def guarded() -> T:
            # The first statement locks the row (in SQLite the database), so no later attempt can slip in.
            if execute(self.database, _FENCE, token, task_id, token).rowcount != 1:
                raise self._lost(task_id, token)
            return work()

        return self.write(guarded)

    def _lost(self, task_id: str, token: int) -> Lost:
        row = Task.get_or_none(Task.id == task_id)
        ended = row is None or row.state in TERMINAL
        return Lost(f"attempt {token} of task {task_id} no longer holds it", ended=ended)

    def begin_step(
        self,
        task_id: str,
        token: int,
        name: str,
        *,
        has_result: bool = False,
        also: Callable[[Step], None] | None = None,
    ) -> Step:
        """Return the step to run or, when its `state` is done, to replay, after what `also` writes. Raises Lost.

        A step started by an earlier attempt counts as interrupted: its call may have succeeded (and cost money). It
        does not when that attempt left a result elsewhere.
        """

        def work() -> Step:
            step = steps.begin(self.database, task_id, token, name, has_result)
            if also:
                also(step)
            return step

        return self.fenced(task_id, token, work)

    def finish_step(
        self,
        task_id: str,
        token: int,
        name: str,
        value: str,
        also: Callable[[], None] | None = None,
        end: Callable[[], None] | None = None,
        mark: str | None = None,
    ) -> None:
        """Record a step's result (JSON text), and what `also` and `end` write with it; `end` once in the task's life
        where a `mark` says so. Raises Lost."""

        def work() -> None:
            try:
                is_first = steps.finish(self.database, task_id, token, name, value, mark if end else None)
            except peewee.IntegrityError:
                if Task.get_or_none(Task.id == task_id, Task.token <= token, Task.state.in_(UNFINISHED)) is not None:
                    raise
                raise self._lost(task_id, token) from None
            if also:
                also()
            if end and (is_first or not mark):
                end()

        self.write(work)  # fenced by the result's statement

    def forget_step(self, task_id: str, token: int, name: str) -> None:
        """Remove a step that failed with an answer, so that it does not count as interrupted. Raises Lost.

        A step that was interrupted before keeps that on record.
        """
        self.fenced(task_id, token, lambda: steps.forget(task_id, name))
