"""Who waits for whom: tasks that run only once others have ended.

Owns the rows of `sytq_waits` and the mark `held` of the tasks that wait, in SQL alone: Redis learns of such a task when
it may run. Must not begin a transaction, nor record an end or dispatch a task: it says which, and that is the ledger's.

A task that waits is `scheduled` and held: `run` (once all have ended) or `cancel` (the same, but it is cancelled as
soon as one has not succeeded). It is `skipped` when that has happened, and not held any more once it may run. Whatever
is not unfinished has ended: also what another program deleted, or gave a state that is none of ours.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import peewee

from sytq.errors import InvalidInput
from sytq.ledger.database import execute_many, is_mysql, marks
from sytq.ledger.events import Event
from sytq.ledger.models import Task, Wait
from sytq.states import CANCELLED, SCHEDULED, SUCCEEDED, UNFINISHED

#: What becomes of a task when one that it waits for does not succeed.
OnFailure = Literal["cancel", "run"]
RULES: tuple[OnFailure, ...] = ("cancel", "run")
SKIPPED = "skipped"
#: Tasks that one transaction releases at most; the sweep goes on with the rest.
MOST = 500
#: The place of a row that says: this task was joined by that one. It waits for nothing by it.
_JOINED = -1


@dataclass
class Freed:
    """Tasks that may run now, by id, and the ends of those that never will."""

    ready: list[str] = field(default_factory=list)
    refused: list[Event] = field(default_factory=list)


def hold(database: peewee.Database, waits: Mapping[str, Sequence[str]]) -> None:
    """Note for tasks that were just inserted which ones they wait for, in this order. Raises InvalidInput."""
    asked = {on_id for after in waits.values() for on_id in after}
    joined = _joined(asked)
    known = {row.id for row in Task.select(Task.id).where(Task.id.in_(list(asked)))}
    if missing := asked - known:
        raise InvalidInput("after", f"there is no task '{min(missing)[:64]}'")
    # For a new task nobody waits. One that was there already may be waited for by what has joined since.
    query = Wait.select(Wait.on_id).where(Wait.on_id.in_(list(waits)), Wait.ended == 0).distinct()
    awaited = {row.on_id for row in query} if joined else set()
    for task_id, after in waits.items():
        places = {on_id: place for place, on_id in enumerate(dict.fromkeys(after))}
        behind = list(places)
        while behind:
            on_id = behind.pop()
            new = [also for also in joined.get(on_id, ()) if also not in places and also != task_id]
            if task_id in awaited:
                new = [also for also in new if task_id not in _ahead(also)]
            places |= dict.fromkeys(new, places[on_id])
            behind += new
        _insert(database, [(task_id, on_id, place, 0) for on_id, place in places.items()])


def join(database: peewee.Database, task_id: str, also: str) -> None:
    """Whoever waits for `task_id`, whose row the caller has locked, waits for `also` too, now and later.

    Not those that `also` itself waits for (one made before it by the same task, say): neither would ever run.
    """
    query = Wait.select(Wait.task_id, Wait.place).where(Wait.on_id == task_id, Wait.ended == 0)
    waiting = {row.task_id: row.place for row in query}
    _insert(database, [(task_id, also, _JOINED, 1)])
    if not waiting:
        return
    for one in dict.fromkeys((also, *chain(*_joined({also}).values()))):
        ahead = _ahead(one)
        _insert(database, [(waits, one, place, 0) for waits, place in waiting.items() if waits not in ahead])


def _joined(ids: Collection[str]) -> dict[str, list[str]]:
    """What has joined these tasks, and what those in turn, by the task that it joined."""
    joined: dict[str, list[str]] = {}
    level, seen = set(ids), set(ids)
    while level:
        # Locked before it is read, so that none of them is joined by another, or deleted, meanwhile.
        Task.update(token=Task.token).where(Task.id.in_(list(level))).execute()
        pairs = Wait.select(Wait.task_id, Wait.on_id).where(Wait.task_id.in_(list(level)), Wait.place == _JOINED)
        found: list[tuple[str, str]] = list(pairs.tuples())  # type: ignore[arg-type]
        for on_id, also in found:
            joined.setdefault(on_id, []).append(also)
        level = {also for _, also in found} - seen
        seen |= level
    return joined


def _ahead(task_id: str) -> set[str]:
    """A task, and all that it waits for, directly or through others, as far as those wait themselves."""
    further = Wait.alias()
    waits_too = peewee.fn.EXISTS(
        further.select(peewee.SQL("1")).where(further.task_id == Wait.on_id, further.ended == 0)
    )
    level, seen = {task_id}, {task_id}
    while level:
        query = Wait.select(Wait.on_id).where(Wait.task_id.in_(list(level)), Wait.ended == 0, waits_too).distinct()
        level = {row.on_id for row in query} - seen
        seen |= level
    return seen


def _insert(database: peewee.Database, rows: Sequence[tuple[str, str, int, int]]) -> None:
    """Rows of sytq_waits; one that is there stays as it is."""
    tail = "ON DUPLICATE KEY UPDATE place = place" if is_mysql(database) else "ON CONFLICT DO NOTHING"
    into = f"INSERT INTO sytq_waits (task_id, on_id, place, ended) VALUES ({marks(database, 4)}) {tail}"
    execute_many(database, into, rows)


def free(ids: Sequence[str], now: dt.datetime) -> Freed:
    """Tell those who wait for `ids` that these have ended; of those that have not, nothing is told.

    Each task is freed by one transaction alone, however often and by whomever this is called.
    """
    freed = Freed()
    if not ids:
        return freed
    open_ = Wait.on_id.in_(list(ids)), Wait.ended == 0
    waiting = [row.task_id for row in Wait.select(Wait.task_id).where(*open_).distinct().limit(MOST)]
    if not waiting:
        return freed
    # Locked before anything is read of them: of two that end at once the second one's transaction sees the first's.
    held = Task.id.in_(waiting), Task.state == SCHEDULED, Task.held.in_(RULES)
    Task.update(held=Task.held).where(*held).execute()
    query = Task.select(Task.id, Task.held, Task.token, Task.attempts).where(*held)
    tasks: dict[str, Task] = {row.id: row for row in query}
    ended: set[str] = set()
    failed: dict[str, str] = {}  # task that waits -> why it cannot run
    edges: Any = (
        Wait.select(Wait.task_id, Wait.on_id, Task.type, Task.state)
        .join(Task, peewee.JOIN.LEFT_OUTER, on=(Task.id == Wait.on_id))
        .where(*open_, Wait.task_id.in_(waiting))
        .order_by(Wait.task_id, Wait.place)
    )
    for task_id, on_id, type_name, state in edges.tuples():
        if state not in UNFINISHED:
            ended.add(on_id)
            if state != SUCCEEDED:
                said = f"{type_name} {on_id} is {state}" if state else f"task {on_id} was deleted"
                failed.setdefault(task_id, f"not run: {said}")
    Wait.update(ended=1).where(Wait.on_id.in_(list(ended)), Wait.task_id.in_(waiting)).execute()
    skipped = [task_id for task_id, task in tasks.items() if task.held == "cancel" and task_id in failed]
    Task.update(held=SKIPPED).where(Task.id.in_(skipped)).execute()
    for task_id in skipped:
        token, attempts = tasks[task_id].token, tasks[task_id].attempts
        freed.refused.append(Event(task_id, CANCELLED, token, attempts, finished_at=now, error=failed[task_id]))
    rest = [task_id for task_id in tasks if task_id not in skipped]
    open_one = Wait.select(peewee.SQL("1")).where(Wait.task_id == Task.id, Wait.ended == 0)
    still = {row.id for row in Task.select(Task.id).where(Task.id.in_(rest), peewee.fn.EXISTS(open_one))}
    freed.ready = [task_id for task_id in rest if task_id not in still]
    # Its age counts from here; a time that it was given holds, where that is later.
    due = peewee.Case(None, [(Task.scheduled_at > now, Task.scheduled_at)], now)
    Task.update(held=None, scheduled_at=due).where(Task.id.in_(freed.ready)).execute()
    return freed


def reopen(ids: Sequence[str]) -> list[str]:
    """Tasks that had ended are to run again: those that wait for others too do so for them again, and those that were
    skipped because of them wait once more. Return the latter."""
    waiting = [row.task_id for row in Wait.select(Wait.task_id).where(Wait.on_id.in_(list(ids))).distinct()]
    if not waiting:
        return []
    both = (
        Task.id.in_(waiting),
        ((Task.state == SCHEDULED) & Task.held.in_(RULES)) | ((Task.state == CANCELLED) & (Task.held == SKIPPED)),
    )
    Task.update(held=Task.held).where(*both).execute()
    held: dict[str, Any] = {row.id: row.held for row in Task.select(Task.id, Task.held).where(*both)}
    on = Task.alias()
    failures = Wait.select(Wait.task_id).join(on, on=(on.id == Wait.on_id))
    bad = failures.where(Wait.task_id.in_(list(held)), on.state.not_in((*UNFINISHED, SUCCEEDED))).distinct()
    hopeless = {row.task_id for row in bad}
    again = [task_id for task_id, rule in held.items() if rule == SKIPPED and task_id not in hopeless]
    open_again = [task_id for task_id, rule in held.items() if rule != SKIPPED] + again
    unfinished = Task.select(Task.id).where(Task.id == Wait.on_id, Task.state.in_(UNFINISHED))
    Wait.update(ended=0).where(Wait.task_id.in_(open_again), peewee.fn.EXISTS(unfinished)).execute()
    return again


def overlooked(after: tuple[str, str], limit: int) -> tuple[list[str], tuple[str, str] | None]:
    """Of the next open waits behind `after`: the tasks that have ended, and where to go on (None: from the start).

    Their ends were recorded by another program, or before somebody began to wait for them.
    """
    behind = (Wait.task_id > after[0]) | ((Wait.task_id == after[0]) & (Wait.on_id > after[1]))
    query = Wait.select(Wait.task_id, Wait.on_id).where(Wait.ended == 0, behind)
    page = list(query.order_by(Wait.task_id, Wait.on_id).limit(limit))
    on_ids = list({row.on_id for row in page})
    going_on = {row.id for row in Task.select(Task.id).where(Task.id.in_(on_ids), Task.state.in_(UNFINISHED))}
    last = (page[-1].task_id, page[-1].on_id) if len(page) == limit else None
    return [on_id for on_id in on_ids if on_id not in going_on], last


def needed() -> peewee.Expression:
    """The condition on `Task` that something unfinished may still read its outcome: its parent, or one that waits."""
    parent, waiting = Task.alias("parent"), Task.alias("waiting")
    by_parent = parent.select(peewee.SQL("1")).where(parent.id == Task.parent, parent.state.in_(UNFINISHED))
    by_waiting = (
        waiting.select(peewee.SQL("1"))
        .join(Wait, on=(Wait.task_id == waiting.id))
        .where(Wait.on_id == Task.id, waiting.state.in_(UNFINISHED))
    )
    return peewee.fn.EXISTS(by_parent) | peewee.fn.EXISTS(by_waiting)


def inner(ids: Iterable[str]) -> set[str]:
    """Those of these skipped tasks that wait for another of `ids`."""
    every = list(ids)
    waits = Wait.select(Wait.task_id).join(Task, on=(Task.id == Wait.task_id))
    return {row.task_id for row in waits.where(Wait.task_id.in_(every), Wait.on_id.in_(every), Task.held == SKIPPED)}
