"""Deletion of ended tasks, with everything that the ledger keeps of them."""

from __future__ import annotations

from collections.abc import Sequence

import peewee

from sytq.ledger.database import locked
from sytq.ledger.models import Attempt, SearchEntry, Step, Task, Wait
from sytq.states import TERMINAL, UNFINISHED


def needed() -> peewee.Expression:
    """The condition on `Task` that an unfinished parent or dependent may still read its outcome."""
    parent, dependent = Task.alias("parent"), Task.alias("dependent")
    by_parent = parent.select(peewee.SQL("1")).where(parent.id == Task.parent, parent.state.in_(UNFINISHED))
    by_dependent = (
        dependent.select(peewee.SQL("1"))
        .join(Wait, on=(Wait.task_id == dependent.id))
        .where(Wait.on_id == Task.id, dependent.state.in_(UNFINISHED))
    )
    return peewee.fn.EXISTS(by_parent) | peewee.fn.EXISTS(by_dependent)


def delete_ended(ids: Sequence[str]) -> int:
    """Delete the ended tasks of `ids` that are not needed, inside the caller's transaction; return their number."""
    ended = Task.id.in_(list(ids)), Task.state.in_(TERMINAL)
    # Locked before the condition is read, so that no task is replayed or gets a dependent meanwhile.
    locked(Task.select(Task.id).where(*ended))
    deletable = [row.id for row in Task.select(Task.id).where(*ended, ~needed())]
    for model in (Attempt, Step, Wait, SearchEntry):
        model.delete().where(model.task_id.in_(deletable)).execute()
    return int(Task.delete().where(Task.id.in_(deletable)).execute())
