"""Reads of the ledger for people: tasks that match, page by page, and how many there are.

Owns the order of such a list and its cursor. Changes nothing; must not know Redis: a row is at most a second behind.
Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import peewee

from sytq.db import read
from sytq.errors import InvalidInput
from sytq.models import Task
from sytq.states import STATES, TERMINAL, UNFINISHED

#: Counting stops here, so that it costs no more than this many entries of an index.
COUNT_MOST = 10_000
#: A list carries neither payloads nor results: they may have a megabyte each.
_COLUMNS = [column for name, column in Task._meta.fields.items() if name not in ("payload", "result")]
_CURSOR = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d(?:\.\d+)?)/(.*)")


@dataclass(frozen=True, slots=True)
class Match:
    """Which tasks; all that is given must hold. `error` is a part of the text; times are aware and of the end."""

    states: tuple[str, ...] = STATES
    type: str | None = None
    queue: str | None = None  # as the row says: one that another language inserted may leave it to the type
    error: str | None = None
    since: dt.datetime | None = None
    before: dt.datetime | None = None
    ids: tuple[str, ...] = ()
    host: str | None = None  # which they call, in the spelling of the row: lower case, without a port


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A part of a list, and the cursor of the part behind it (None: this was the last)."""

    tasks: list[Task]
    next: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks by state, each number up to COUNT_MOST + 1; and when the oldest of each unfinished state was created."""

    by_type: dict[str, dict[str, int]]
    oldest: dict[str, dt.datetime] = field(default_factory=dict)


class History:
    """See the module."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def page(self, match: Match, *, limit: int, after: str | None = None) -> TaskPage:
        """Return the latest tasks that match: by their end when only ended ones are asked for, else by creation.

        Raises InvalidInput for a strange cursor. One statement for each state, which reads `limit` rows unless a
        filter beside the state leaves out many.
        """
        moment = Task.finished_at if set(match.states) <= set(TERMINAL) else Task.created_at
        # As the database has it: SQLite compares text, and the digits of a second differ between writers.
        exact = moment.cast("CHAR")
        where = []
        if after is not None:
            parts = _CURSOR.fullmatch(after)
            if parts is None:
                raise InvalidInput("after", f"'{after[:64]}' is no cursor; valid: the `next` of a page before")
            last = peewee.AsIs(f"{parts[1]} {parts[2]}", converter=False)  # as it stands
            where = [moment <= last, (moment < last) | (Task.id < parts[3])]

        def work() -> list[Task]:
            found: list[Task] = []
            for condition in _each_state(match):
                query = Task.select(*_COLUMNS, exact.alias("moment")).where(condition, *where)
                found.extend(query.order_by(moment.desc(), Task.id.desc()).limit(limit + 1))
            return sorted(found, key=lambda task: (_moment(task), task.id), reverse=True)

        tasks = read(self._database, work)
        last_shown = tasks[limit - 1] if len(tasks) > limit else None
        follows = f"{_moment(last_shown).replace(' ', 'T')}/{last_shown.id}" if last_shown else None
        return TaskPage(tasks[:limit], follows)

    def pages(self, match: Match, size: int = 500) -> Iterator[list[Task]]:
        """Yield all tasks that match, latest first, in pages; what is changed meanwhile does not come twice."""
        after: str | None = None
        while True:
            page = self.page(match, limit=size, after=after)
            if page.tasks:
                yield page.tasks
            if page.next is None:
                return
            after = page.next

    def count(self, match: Match) -> int:
        """Return how many tasks match, exactly; as long as counting them takes."""
        return read(
            self._database,
            lambda: sum(Task.select(Task.id).where(condition).count() for condition in _each_state(match)),
        )

    def counts(self, types: Iterable[str]) -> Counts:
        """Return how many tasks of these types are in each state. Seven small statements a type, bounded each."""

        def number(type_name: str, state: str) -> int:
            query = Task.select(Task.id).where(Task.type == type_name, Task.state == state)
            return int(query.limit(COUNT_MOST + 1).count())

        def first(state: str) -> dt.datetime | None:
            query = Task.select(Task.created_at).where(Task.state == state).order_by(Task.created_at).limit(1)
            return next((row.created_at for row in query), None)

        def work() -> Counts:
            by_type = {name: {state: number(name, state) for state in STATES} for name in types}
            return Counts(by_type, {state: at for state in UNFINISHED if (at := first(state)) is not None})

        return read(self._database, work)


def _each_state(match: Match) -> Iterator[peewee.Expression]:
    """The condition for each state alone: so that an index gives the rows in order."""
    rest = []
    if match.type is not None:
        rest.append(Task.type == match.type)
    if match.queue is not None:
        rest.append(Task.queue == match.queue)
    if match.host is not None:
        rest.append(Task.host == match.host)
    if match.error is not None:
        rest.append(Task.error.contains(match.error))
    if match.since is not None:
        rest.append(Task.finished_at >= _naive(match.since))
    if match.before is not None:
        rest.append(Task.finished_at < _naive(match.before))
    if match.ids:
        rest.append(Task.id.in_(match.ids))
    for state in match.states:
        condition = Task.state == state
        for part in rest:
            condition &= part
        yield condition


def _moment(task: Task) -> str:
    return str(vars(task)["moment"])


def _naive(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC).replace(tzinfo=None)
