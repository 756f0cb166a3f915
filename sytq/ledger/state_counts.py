"""How many tasks there are in each state, for a page: counted from few rows, however many there are."""

from __future__ import annotations

from typing import Any

import peewee

from sytq.ledger.database import execute, read
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.search import Count, Search
from sytq.states import STATES

#: Tasks of each state that are counted.
_COUNTED = 1000
#: Of an owner: the latest tasks that are looked at, for how many seconds as the search index may not have the owner
#: yet, and the latest of each state, whose rows may be anywhere on the disk.
_LATEST, _SECONDS, _OF_STATE = 200, 0.05, 500


class StateCounts:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._search = Search(database)

    def of_all(self) -> dict[str, Count]:
        """The number of tasks in each state, up to a thousand."""
        found = dict(self._each_state("COUNT(*)", "state", "", _COUNTED + 1, ()))
        return {state: Count(min(number, _COUNTED), number <= _COUNTED) for state, number in found.items()}

    def of_owner(self, owner: str) -> dict[str, Count]:
        """The number of an owner's tasks in each state, as far as the latest tell: theirs, and all of the state.

        No index has owner and state: of an owner with many tasks, counting all of one state would read those of others.
        """
        groups, is_all = self._search.grouped(parse("").owned_by(owner), Task.state, most=_LATEST, seconds=_SECONDS)
        found = dict.fromkeys(STATES, 0)
        for state, number in groups:
            found[state] = found.get(state, 0) + number
        if is_all:
            return {state: Count(found[state]) for state in STATES}
        owned = "COUNT(CASE WHEN owner = ? THEN 1 END), COUNT(*)"
        rows = self._each_state(owned, "owner", "ORDER BY created_at DESC", _OF_STATE, (owner,))
        return {state: Count(max(mine, found[state]), looked < _OF_STATE) for state, mine, looked in rows}

    def _each_state(self, columns: str, read_of: str, order: str, limit: int, given: tuple[str, ...]) -> list[Any]:
        """One row for each state, with `columns` of so many of its tasks."""
        some = f"SELECT {read_of} FROM sytq_tasks WHERE state = ? {order} LIMIT {limit}"  # noqa: S608
        each = f"SELECT ?, {columns} FROM ({some}) AS its"  # noqa: S608
        sql = " UNION ALL ".join([each] * len(STATES))
        values = [value for state in STATES for value in (state, *given, state)]
        return read(self._database, lambda: list(execute(self._database, sql, *values).fetchall()))
