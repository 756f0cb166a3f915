"""What ends of tasks leave to do. Most leave nothing, and are not read. Must not begin a transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import peewee

from sytq.ledger.database import marks
from sytq.states import CANCELLED, DEAD, TERMINAL

_TERMINAL = ", ".join(map(repr, TERMINAL))
_FOLLOWED = f"(task.state IN ('{DEAD}', '{CANCELLED}') OR task.callback IS NOT NULL)"
_KEYED = "EXISTS (SELECT 1 FROM sytq_unique AS held WHERE held.task_id = task.id)"
_AWAITED = "EXISTS (SELECT 1 FROM sytq_waits AS wait WHERE wait.on_id = task.id AND wait.ended = 0)"
_ENDS = (
    f"SELECT task.id, {_FOLLOWED}, {_KEYED}, {_AWAITED} FROM sytq_tasks AS task"
    f" WHERE task.state IN ({_TERMINAL}) AND ({_FOLLOWED} OR {_KEYED} OR {_AWAITED}) AND task.id IN "
)
#: Ids of one statement.
_IDS = 500


class Ends(NamedTuple):
    """The ended tasks that may have followers, and those with dependents to release."""

    followed: list[str]
    awaited: list[str]


def end(database: peewee.Database, ids: Sequence[str]) -> Ends:
    """Free the unique keys of those of `ids` that have ended; return what is left to do."""
    found = list(_found(database, ids))
    keyed = [task_id for task_id, _, is_keyed, _ in found if is_keyed]
    if keyed:
        sql = f"DELETE FROM sytq_unique WHERE task_id IN ({marks(database, len(keyed))})"
        database.execute_sql(sql, keyed)
    return Ends([row[0] for row in found if row[1]], [row[0] for row in found if row[3]])


def _found(database: peewee.Database, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for first in range(0, len(ids), _IDS):
        part = ids[first : first + _IDS]
        yield from database.execute_sql(f"{_ENDS}({marks(database, len(part))})", part).fetchall()
