"""The unfinished tasks of a ledger that was set back: which of them Redis knows, and how to end the others.

For the time of a hold: no worker changes them then.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from sytq.broker.inspection import Inspection
from sytq.broker.state_index import Live
from sytq.ledger.database import locked, read, transact
from sytq.ledger.events import Event, write_states
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task, Wait
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from sytq.service import bulk
from sytq.states import CANCELLED, SCHEDULED, TERMINAL, UNFINISHED

_PAGE = 500
#: Of a task that `discard` has ended, so that a query finds it.
DISCARDED = "ended after the state that the database was restored to, or never started: discarded by {by}"

#: (type, state) -> number of tasks.
Counts = Counter[tuple[str, str]]


@dataclass
class Comparison:
    """Unfinished tasks by what happens to them when the hold ends."""

    goes_on: Counts = field(default_factory=Counter)  # both know them
    waits: Counts = field(default_factory=Counter)  # for other tasks
    unknown: Counts = field(default_factory=Counter)  # Redis does not know them: dispatched, they run again or first


class Recovery:
    """Every method raises DatabaseUnavailable and RedisUnavailable."""

    def __init__(self, ledger: Ledger, inspection: Inspection) -> None:
        self._ledger = ledger
        self._inspection = inspection

    def compare(self) -> Comparison:
        """Count the unfinished tasks of the ledger, in one pass."""
        found = Comparison()
        for rows, live in self._unfinished():
            for row in rows:
                known = live.get(row.id)
                place = (row.type, known.state if known else row.state)
                if known is not None:
                    # Of a task that has ended in Redis the recorder is about to write the end.
                    found.goes_on[place] += known.state not in TERMINAL
                elif row.held is not None:
                    found.waits[place] += 1
                else:
                    found.unknown[place] += 1
        return found

    def discardable(self, query: str, before: dt.datetime) -> Iterator[list[str]]:
        """Yield the tasks that `discard` ends, page by page: unknown to Redis, matching, created until `before`."""
        wanted = bulk.targets("cancel", query, before)
        for rows, live in self._unfinished():
            ids = [row.id for row in rows if row.held is None and row.id not in live]
            if ids := Search(self._ledger.database).matching(wanted, ids):
                yield ids

    def discard(self, query: str, before: dt.datetime, by: str) -> int:
        """End these tasks as cancelled without a callback or another follower: their ends were announced already.

        Their unique keys stay reserved, so that no row of a caller's table is picked up for them again. Dependents that
        wait for nothing else end with them.
        """
        error = DISCARDED.format(by=by)
        number = 0
        for ids in list(self.discardable(query, before)):
            while ids:
                number += transact(self._ledger.database, partial(self._end, ids, error))
                ids = transact(self._ledger.database, partial(_dependents, ids))
                ids = list(set(ids) - self._inspection.known(ids))
        return number

    def _unfinished(self) -> Iterator[tuple[list[Task], dict[str, Live]]]:
        """The unfinished rows by pages, with what Redis knows of them."""
        after = ""
        while True:
            columns = Task.select(Task.id, Task.type, Task.state, Task.held)
            query = columns.where(Task.state.in_(UNFINISHED), Task.id > after).order_by(Task.id).limit(_PAGE)
            rows: list[Task] = read(self._ledger.database, partial(list, query))
            if not rows:
                return
            yield rows, self._inspection.live([row.id for row in rows])
            after = rows[-1].id

    def _end(self, ids: list[str], error: str) -> int:
        query = Task.select(Task.id, Task.token, Task.attempts).where(Task.id.in_(ids), Task.state.in_(UNFINISHED))
        rows, now = locked(query), utcnow()
        ends = [Event(row.id, CANCELLED, row.token, row.attempts, finished_at=now, error=error) for row in rows]
        write_states(self._ledger.database, ends)
        Wait.update(ended=1).where(Wait.task_id.in_([row.id for row in rows])).execute()  # nothing releases them
        return len(rows)


def _dependents(ids: list[str]) -> list[str]:
    """The held tasks that depend on these and on nothing else that is unfinished."""
    asked = Wait.select(Wait.task_id).where(Wait.on_id.in_(ids), Wait.ended == 0)
    dependents = [row.task_id for row in asked.distinct()]
    still = (
        Wait.select(Wait.task_id)
        .join(Task, on=(Task.id == Wait.on_id))
        .where(Wait.task_id.in_(dependents), Wait.ended == 0, Task.state.in_(UNFINISHED))
    )
    waiting = {row.task_id for row in still}
    held = Task.id.in_([one for one in dependents if one not in waiting]), Task.state == SCHEDULED
    return [row.id for row in Task.select(Task.id).where(*held, Task.held.is_null(False))]
