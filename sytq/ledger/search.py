"""Searches of the ledger: matching tasks, page by page, and their number. A row is at most a second behind Redis.

There is a statement for each state and tasks move between states, so all statements of a list use one snapshot.
Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import peewee

from sytq.errors import InvalidInput
from sytq.ledger.database import is_mysql, read, read_snapshot
from sytq.ledger.models import Task
from sytq.ledger.query import Filter, condition
from sytq.states import STATES, TERMINAL, UNFINISHED

#: Counting stops here, to read no more than this many entries of an index.
COUNT_MAX = 10_000
#: Lists leave out payloads and results, which may have a megabyte each.
_COLUMNS = [column for name, column in Task._meta.fields.items() if name not in ("payload", "result", "callback")]
_PLACE = re.compile(r"([cf])(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})?)/([!-~]{1,64})")


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of a list, and the cursor of the next page (None on the last page)."""

    tasks: list[Task]
    next: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks by state, each up to COUNT_MAX + 1, and when the oldest task of each unfinished state was created."""

    by_type: dict[str, dict[str, int]]
    oldest: dict[str, dt.datetime] = field(default_factory=dict)


class Search:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._mysql = is_mysql(database)

    def page(self, wanted: Filter, *, limit: int, after: str | None = None) -> TaskPage:
        """Return the latest matching tasks: by end when the filter admits only ended tasks, else by creation.

        Raises InvalidInput for an invalid cursor. One statement for each state reads `limit` rows, or more when further
        conditions exclude many.
        """
        ended = set(wanted.states) <= set(TERMINAL)
        moment = Task.finished_at if ended else Task.created_at
        # As stored: SQLite compares text, and the digits of a second differ between writers.
        exact = moment.cast("CHAR")
        where = []
        if after is not None:
            time, task_id = _place(after, ended)
            last = peewee.AsIs(time, converter=False)
            where = [moment <= last, (moment < last) | (Task.id < task_id)]

        def work() -> list[Task]:
            found: list[Task] = []
            for matches in self._each_state(wanted):
                query = Task.select(*_COLUMNS, exact.alias("moment")).where(matches, *where)
                found.extend(query.order_by(moment.desc(), Task.id.desc()).limit(limit + 1))
            return sorted(found, key=lambda task: (_moment(task), task.id), reverse=True)

        tasks = read_snapshot(self._database, work)
        last_shown = tasks[limit - 1] if len(tasks) > limit else None
        return TaskPage(tasks[:limit], _cursor(last_shown, ended) if last_shown else None)

    def pages(self, wanted: Filter, size: int = 500) -> Iterator[list[Task]]:
        """Yield all matching tasks in pages, latest first; a task that changes meanwhile appears once."""
        after: str | None = None
        while True:
            page = self.page(wanted, limit=size, after=after)
            if page.tasks:
                yield page.tasks
            if page.next is None:
                return
            after = page.next

    def count(self, wanted: Filter, max_per_state: int | None = None) -> int:
        """Return the number of matching tasks; counting stops one above `max_per_state` in each state."""

        def work() -> int:
            parts = (Task.select(Task.id).where(matches) for matches in self._each_state(wanted))
            return sum(
                part.limit(max_per_state + 1).count() if max_per_state is not None else part.count() for part in parts
            )

        return read_snapshot(self._database, work)

    def matching(self, wanted: Filter, ids: Sequence[str]) -> list[str]:
        def work() -> list[str]:
            parts = (Task.select(Task.id).where(m, Task.id.in_(list(ids))) for m in self._each_state(wanted))
            return [task.id for part in parts for task in part]

        return read_snapshot(self._database, work) if ids else []

    def now(self) -> dt.datetime:
        """Return the database's time (naive UTC), by which `created_at` is set."""
        return read(self._database, self._now)

    def counts(self, types: Iterable[str]) -> Counts:
        """Count the tasks of these types by state, with seven small, bounded statements a type."""

        def number(type_name: str, state: str) -> int:
            query = Task.select(Task.id).where(Task.type == type_name, Task.state == state)
            return int(query.limit(COUNT_MAX + 1).count())

        def first(state: str) -> dt.datetime | None:
            query = Task.select(Task.created_at).where(Task.state == state).order_by(Task.created_at).limit(1)
            return next((row.created_at for row in query), None)

        def work() -> Counts:
            by_type = {name: {state: number(name, state) for state in STATES} for name in types}
            return Counts(by_type, {state: at for state in UNFINISHED if (at := first(state)) is not None})

        return read_snapshot(self._database, work)

    def _each_state(self, wanted: Filter) -> Iterator[peewee.Node]:
        """One condition for each state, so that an index gives the rows in order."""
        if wanted.needs_now:
            wanted = wanted.at(self._now())
        rest = condition(wanted, mysql=self._mysql)
        for state in wanted.states:
            yield Task.state == state if rest is None else (Task.state == state) & rest

    def _now(self) -> dt.datetime:
        clock = "UTC_TIMESTAMP(6)" if self._mysql else "strftime('%Y-%m-%d %H:%M:%f', 'now')"
        (now,) = self._database.execute_sql(f"SELECT {clock}").fetchone()
        return now if isinstance(now, dt.datetime) else dt.datetime.fromisoformat(now)


def _moment(task: Task) -> str:
    return str(vars(task)["moment"])


def _cursor(last: Task, ended: bool) -> str:
    place = f"{'f' if ended else 'c'}{_moment(last)}/{last.id}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _place(cursor: str, ended: bool) -> tuple[str, str]:
    """The time and the id at which the previous page ended. Raises InvalidInput."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        text = ""
    match = _PLACE.fullmatch(text)
    try:
        if match is not None and match[1] == ("f" if ended else "c"):
            dt.datetime.fromisoformat(match[2])  # an invalid time would be an error of the database
            return match[2], match[3]
    except ValueError:
        pass
    raise InvalidInput("after", f"'{cursor[:64]}' is no cursor of this list; valid: the `next` of a page before")
