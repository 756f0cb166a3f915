"""Dependencies: a task with `after` runs only once those tasks have ended.

A row of `sytq_waits` says that `task_id` depends on `on_id`, and is `ended` once that end was handled. A dependent is
`scheduled` and `held` by a rule: `run` (once all have ended) or `cancel` (the same, but cancelled as soon as one
has not succeeded, and `held` is `skipped` then). `held` is NULL once it may run.

`extend` makes the dependents of a running task depend on a child of it too. A row with the place EXTENSION keeps that
for later dependents: `add` gives them the extensions of whatever they depend on. `missed_ends` finds ends that
`release` has not handled: another program wrote them, or they came before `add`.

A task in any other than an unfinished state has ended, also when another program deleted it or wrote its own state.
Must not begin a transaction, record an end or dispatch a task; recording does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import peewee

from sytq.errors import InvalidInput
from sytq.ledger.database import insert_ignore, locked
from sytq.ledger.events import Event
from sytq.ledger.models import EXTENSION, Task, Wait
from sytq.states import CANCELLED, SCHEDULED, SUCCEEDED, UNFINISHED

#: What happens to a task when a dependency does not succeed.
OnFailure = Literal["cancel", "run"]
RULES: tuple[OnFailure, ...] = ("cancel", "run")
SKIPPED = "skipped"
#: Dependents that one transaction releases at most; `missed_ends` finds the rest.
MAX_RELEASED = 500


@dataclass
class Released:
    """Ids of the dependents that may run now, and the ends of the cancelled ones."""

    ready: list[str] = field(default_factory=list)
    cancelled: list[Event] = field(default_factory=list)


def add(database: peewee.Database, dependencies: Mapping[str, Sequence[str]]) -> None:
    """Write the dependencies of tasks just inserted (id -> ids, in order). Raises InvalidInput."""
    asked = {on_id for after in dependencies.values() for on_id in after}
    extensions = _extensions(asked)
    known = {row.id for row in Task.select(Task.id).where(Task.id.in_(list(asked)))}
    if missing := asked - known:
        raise InvalidInput("after", f"there is no task '{min(missing)[:64]}'")
    # A new task has no dependents, but an existing row may have got some by an extension since.
    query = Wait.select(Wait.on_id).where(Wait.on_id.in_(list(dependencies)), Wait.ended == 0).distinct()
    with_dependents = {row.on_id for row in query} if extensions else set()
    for task_id, after in dependencies.items():
        places = {on_id: place for place, on_id in enumerate(dict.fromkeys(after))}
        unexplored = list(places)
        while unexplored:
            on_id = unexplored.pop()
            new = [child for child in extensions.get(on_id, ()) if child not in places and child != task_id]
            if task_id in with_dependents:
                new = [child for child in new if task_id not in _open_closure(child)]
            places |= dict.fromkeys(new, places[on_id])
            unexplored += new
        _insert(database, [(task_id, on_id, place, 0) for on_id, place in places.items()])


def extend(database: peewee.Database, task_id: str, child: str) -> None:
    """Make all present and later dependents of `task_id`, whose row the caller has locked, depend on `child` too.

    Dependents that `child` itself depends on (inserted earlier by the same task, say) are left out: neither could run.
    """
    query = Wait.select(Wait.task_id, Wait.place).where(Wait.on_id == task_id, Wait.ended == 0)
    dependents = {row.task_id: row.place for row in query}
    _insert(database, [(task_id, child, EXTENSION, 1)])
    if not dependents:
        return
    for on_id in dict.fromkeys((child, *chain(*_extensions({child}).values()))):
        before = _open_closure(on_id)
        _insert(database, [(one, on_id, place, 0) for one, place in dependents.items() if one not in before])


def _extensions(ids: Collection[str]) -> dict[str, list[str]]:
    """The children that extend these tasks, directly or through others, by the extended task."""
    extensions: dict[str, list[str]] = {}
    level, seen = set(ids), set(ids)
    while level:
        # Locked before the read, so that none is extended or deleted meanwhile.
        locked(Task.select(Task.id).where(Task.id.in_(list(level))))
        pairs = Wait.select(Wait.task_id, Wait.on_id).where(Wait.task_id.in_(list(level)), Wait.place == EXTENSION)
        found: list[tuple[str, str]] = list(pairs.tuples())  # type: ignore[arg-type]
        for task_id, child in found:
            extensions.setdefault(task_id, []).append(child)
        level = {child for _, child in found} - seen
        seen |= level
    return extensions


def _open_closure(task_id: str) -> set[str]:
    """A task and the tasks that it depends on, directly or through others, that have open dependencies themselves."""
    further = Wait.alias()
    depends_too = peewee.fn.EXISTS(
        further.select(peewee.SQL("1")).where(further.task_id == Wait.on_id, further.ended == 0)
    )
    level, seen = {task_id}, {task_id}
    while level:
        query = Wait.select(Wait.on_id).where(Wait.task_id.in_(list(level)), Wait.ended == 0, depends_too).distinct()
        level = {row.on_id for row in query} - seen
        seen |= level
    return seen


def _insert(database: peewee.Database, rows: Sequence[tuple[str, str, int, int]]) -> None:
    columns = dict(zip(("task_id", "on_id", "place", "ended"), zip(*rows, strict=True), strict=False))
    insert_ignore(database, "sytq_waits", columns)


def release(ids: Sequence[str], now: dt.datetime) -> Released:
    """Handle the ends of `ids` for their dependents; unfinished ids are ignored.

    Concurrent and repeated calls release each dependent once.
    """
    released = Released()
    if not ids:
        return released
    of_these = Wait.on_id.in_(list(ids)), Wait.ended == 0
    dependents = [row.task_id for row in Wait.select(Wait.task_id).where(*of_these).distinct().limit(MAX_RELEASED)]
    if not dependents:
        return released
    # Locked before their dependencies are read: when two end at once, the second transaction sees the first.
    held = Task.id.in_(dependents), Task.state == SCHEDULED, Task.held.in_(RULES)
    query = Task.select(Task.id, Task.held, Task.token, Task.attempts).where(*held)
    tasks: dict[str, Task] = {row.id: row for row in locked(query)}
    ended: set[str] = set()
    failed: dict[str, str] = {}  # dependent -> why it cannot run
    rows: Any = (
        Wait.select(Wait.task_id, Wait.on_id, Task.type, Task.state)
        .join(Task, peewee.JOIN.LEFT_OUTER, on=(Task.id == Wait.on_id))
        .where(*of_these, Wait.task_id.in_(dependents))
        .order_by(Wait.task_id, Wait.place)
    )
    for task_id, on_id, type_name, state in rows.tuples():
        if state not in UNFINISHED:
            ended.add(on_id)
            if state != SUCCEEDED:
                failure = f"{type_name} {on_id} is {state}" if state else f"task {on_id} was deleted"
                failed.setdefault(task_id, f"not run: {failure}")
    Wait.update(ended=1).where(Wait.on_id.in_(list(ended)), Wait.task_id.in_(dependents)).execute()
    skipped = [task_id for task_id, task in tasks.items() if task.held == "cancel" and task_id in failed]
    Task.update(held=SKIPPED).where(Task.id.in_(skipped)).execute()
    for task_id in skipped:
        token, attempts = tasks[task_id].token, tasks[task_id].attempts
        released.cancelled.append(Event(task_id, CANCELLED, token, attempts, finished_at=now, error=failed[task_id]))
    rest = [task_id for task_id in tasks if task_id not in skipped]
    open_one = Wait.select(peewee.SQL("1")).where(Wait.task_id == Task.id, Wait.ended == 0)
    still = {row.id for row in Task.select(Task.id).where(Task.id.in_(rest), peewee.fn.EXISTS(open_one))}
    released.ready = [task_id for task_id in rest if task_id not in still]
    # Its age counts from here, or from its own later time.
    due = peewee.Case(None, [(Task.scheduled_at > now, Task.scheduled_at)], now)
    Task.update(held=None, scheduled_at=due).where(Task.id.in_(released.ready)).execute()
    return released


def reopen(ids: Sequence[str]) -> list[str]:
    """Make the dependents of tasks that will run again wait for them; return the dependents that were skipped."""
    dependents = [row.task_id for row in Wait.select(Wait.task_id).where(Wait.on_id.in_(list(ids))).distinct()]
    if not dependents:
        return []
    held_or_skipped = (
        Task.id.in_(dependents),
        ((Task.state == SCHEDULED) & Task.held.in_(RULES)) | ((Task.state == CANCELLED) & (Task.held == SKIPPED)),
    )
    held: dict[str, Any] = {row.id: row.held for row in locked(Task.select(Task.id, Task.held).where(*held_or_skipped))}
    on = Task.alias()
    failures = Wait.select(Wait.task_id).join(on, on=(on.id == Wait.on_id))
    failed = failures.where(Wait.task_id.in_(list(held)), on.state.not_in((*UNFINISHED, SUCCEEDED))).distinct()
    hopeless = {row.task_id for row in failed}
    again = [task_id for task_id, rule in held.items() if rule == SKIPPED and task_id not in hopeless]
    waiting = [task_id for task_id, rule in held.items() if rule != SKIPPED] + again
    unfinished = Task.select(Task.id).where(Task.id == Wait.on_id, Task.state.in_(UNFINISHED))
    Wait.update(ended=0).where(Wait.task_id.in_(waiting), peewee.fn.EXISTS(unfinished)).execute()
    return again


def missed_ends(after: tuple[str, str], limit: int) -> tuple[list[str], tuple[str, str] | None]:
    """The ended tasks among the next open dependencies above `after`, and where to continue (None: at the start)."""
    behind = (Wait.task_id > after[0]) | ((Wait.task_id == after[0]) & (Wait.on_id > after[1]))
    query = Wait.select(Wait.task_id, Wait.on_id).where(Wait.ended == 0, behind)
    page = list(query.order_by(Wait.task_id, Wait.on_id).limit(limit))
    on_ids = list({row.on_id for row in page})
    unfinished = {row.id for row in Task.select(Task.id).where(Task.id.in_(on_ids), Task.state.in_(UNFINISHED))}
    last = (page[-1].task_id, page[-1].on_id) if len(page) == limit else None
    return [on_id for on_id in on_ids if on_id not in unfinished], last


def ends(ids: Sequence[str]) -> dict[str, dt.datetime]:
    """When the last dependency of each of `ids` ended, of those known to have ended."""
    waits: Any = Wait.select(Wait.task_id, peewee.fn.MAX(Task.finished_at)).join(Task, on=(Task.id == Wait.on_id))
    mine = Wait.task_id.in_(list(ids)), Wait.place != EXTENSION, Task.finished_at.is_null(False)
    return dict(waits.where(*mine).group_by(Wait.task_id).tuples())


def skipped_among(ids: Iterable[str]) -> set[str]:
    """The skipped tasks among `ids` that depend on another of `ids`."""
    every = list(ids)
    waits = Wait.select(Wait.task_id).join(Task, on=(Task.id == Wait.task_id))
    return {row.task_id for row in waits.where(Wait.task_id.in_(every), Wait.on_id.in_(every), Task.held == SKIPPED)}
