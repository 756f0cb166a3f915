"""The outcomes of a task's dependencies, and the tree below a task, from rows at most a second behind Redis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import peewee
from typing_extensions import TypedDict

from sytq.ledger.models import EXTENSION, Task, Wait
from sytq.ledger.values import iso, parsed
from sytq.service.task_view import is_held
from sytq.states import SUCCEEDED

#: Maximum dependencies of a task that are named.
_NAMED = 20
#: Maximum dependents of a task that are named.
_DEPENDENTS = 100
#: A parent's children are counted up to this number.
_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a dependency ended. `state` is "deleted" if it no longer exists, and unfinished if it runs again meanwhile;
    `parent` is the task that submitted it."""

    id: str
    type: str
    state: str
    result: Any
    error: str | None
    parent: str | None

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.state == SUCCEEDED


def outcomes(task_id: str) -> list[Outcome]:
    """The outcomes of a task's dependencies in the order of `after`, each followed by the tasks that joined it."""
    query: Any = (
        Wait.select(Wait.on_id, Task.type, Task.state, Task.result, Task.error, Task.parent)
        .join(Task, peewee.JOIN.LEFT_OUTER, on=(Task.id == Wait.on_id))
        .where(Wait.task_id == task_id, Wait.place != EXTENSION)
        .order_by(Wait.place, Task.created_at, Wait.on_id)
    )
    return [
        Outcome(on_id, type_name or "", state or "deleted", parsed(result), error, parent)
        for on_id, type_name, state, result, error, parent in query.tuples()
    ]


class Waits(TypedDict):
    """The dependencies of a task: how many, how many have ended, and the ids of the first ones."""

    tasks: int
    ended: int
    first: list[str]


class TreeNode(TypedDict):
    """A task in a tree. `depth` is its distance from the root, `children` counts its children by state; `held` is true
    while it waits for other tasks."""

    id: str
    parent: str | None
    depth: int
    type: str
    state: str
    held: bool
    error: str | None
    created_at: str
    finished_at: str | None
    after: Waits | None
    children: dict[str, int]


class Dependent(TypedDict):
    """A task that depends on the root."""

    id: str
    type: str
    state: str


class Tree(TypedDict):
    """A task and its descendants, each before its children. `truncated` is true when some are left out. `dependents`
    are the first tasks that depend on the root."""

    tasks: list[TreeNode]
    truncated: bool
    dependents: list[Dependent]


_COLUMNS = (Task.id, Task.parent, Task.type, Task.state, Task.held, Task.error, Task.created_at, Task.finished_at)


def tree(root: Task, limit: int, visible: peewee.Expression | None = None) -> Tree:
    """The tree below `root`, at most `limit` tasks in all, those near the root first; below it those `visible` alone.

    A few statements for each of its levels. To be called within `sytq.ledger.database.read`.
    """
    rows: dict[str, Task] = {root.id: root}
    below: dict[str, list[str]] = {}
    counts: dict[str, Counter[str]] = {}
    truncated = False
    level = [root.id]
    while level:
        mine = Task.parent.in_(level) if visible is None else Task.parent.in_(level) & visible
        some: Any = Task.select(Task.parent, Task.state).where(mine).limit(_COUNTED)
        for parent, state in some.tuples():
            counts.setdefault(parent, Counter())[state] += 1
        room = limit - len(rows)
        found = list(Task.select(*_COLUMNS).where(mine).order_by(Task.created_at, Task.id).limit(room + 1))
        truncated = truncated or len(found) > room
        fresh = [task for task in found[:room] if task.id not in rows]  # another program's row may be its own parent
        for task in fresh:
            rows[task.id] = task
            below.setdefault(str(task.parent), []).append(task.id)
        level = [task.id for task in fresh]
    waits = _waits(list(rows))
    nodes: list[TreeNode] = []
    stack = [(root.id, 0)]
    while stack:
        task_id, depth = stack.pop()
        nodes.append(_node(rows[task_id], depth, waits.get(task_id), counts.get(task_id, Counter())))
        stack += [(child, depth + 1) for child in reversed(below.get(task_id, []))]
    return {"tasks": nodes, "truncated": truncated, "dependents": _dependents(root.id, visible)}


def _dependents(task_id: str, visible: peewee.Expression | None) -> list[Dependent]:
    waits: Any = Wait.select(Task.id, Task.type, Task.state).join(Task, on=(Task.id == Wait.task_id))
    these = [Wait.on_id == task_id, Wait.place != EXTENSION] + ([] if visible is None else [visible])
    found = waits.where(*these).order_by(Task.created_at, Task.id).limit(_DEPENDENTS)
    return [{"id": one, "type": type_name, "state": state} for one, type_name, state in found.tuples()]


def _waits(ids: list[str]) -> dict[str, Waits]:
    waited = Wait.task_id.in_(ids), Wait.place != EXTENSION
    sums: Any = Wait.select(Wait.task_id, peewee.fn.COUNT(Wait.on_id), peewee.fn.SUM(Wait.ended)).where(*waited)
    found: dict[str, Waits] = {
        task_id: {"tasks": int(number), "ended": int(ended), "first": []}
        for task_id, number, ended in sums.group_by(Wait.task_id).tuples()
    }
    named: Any = Wait.select(Wait.task_id, Wait.on_id).where(*waited, Wait.place < _NAMED)
    for task_id, on_id in named.order_by(Wait.task_id, Wait.place).tuples():
        found[task_id]["first"].append(on_id)
    return found


def _node(task: Task, depth: int, waits: Waits | None, counts: Counter[str]) -> TreeNode:
    return {
        "id": task.id,
        "parent": task.parent,
        "depth": depth,
        "type": task.type,
        "state": task.state,
        "held": is_held(task),
        "error": task.error,
        "created_at": iso(task.created_at),
        "finished_at": iso(task.finished_at) if task.finished_at else None,
        "after": waits,
        "children": dict(counts),
    }
