"""Dead tasks by cause: how many there are of each error, when they died, and one of them.

A loop keeps a small table of them: grouping 100,000 rows of tasks takes longer than a person waits. A cause is a type
and the fingerprint of an error. Must not be asked for a period in the middle of another: ten minutes are its parts.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import peewee

from sytq.ledger.database import execute, is_mysql, read, transact, upsert
from sytq.ledger.models import Failure, Task
from sytq.ledger.query import parse
from sytq.ledger.search import Search
from sytq.ledger.values import floor, from_ms, to_ms, utcnow, whole_second
from sytq.states import DEAD, RETRYING

_TEN_MINUTES, _HOUR = 600, 3600
_DAY = 24 * _HOUR
#: Age in seconds from which rows stand for an hour.
_OLD = 2 * _HOUR
#: Seconds of work in one call.
_BOUND = 0.2
#: Retrying tasks that are looked at, and for how many seconds.
_MAX_RETRYING, _LOOKING = 4_000, 0.1
_MAX_CAUSES = 100
#: Period -> its seconds, and those of a step of the trend; None: all that there is.
PERIODS: dict[str, tuple[int | None, int]] = {
    "hour": (_HOUR, _TEN_MINUTES),
    "day": (_DAY, _HOUR),
    "week": (7 * _DAY, 6 * _HOUR),
    "all": (None, _DAY),
}
_COLUMNS = ("since", "owner", "type", "fingerprint", "tasks", "first_at", "last_at", "sample")


def begin(period: str) -> int | None:
    """The begin (Unix seconds) of a period that ends now: to ten minutes, or an hour, as the rows are."""
    seconds, _ = PERIODS[period]
    if seconds is None:
        return None
    return floor(to_ms(utcnow()) // 1000 - seconds, _TEN_MINUTES if seconds <= _HOUR else _HOUR)


@dataclass(slots=True)
class Cause:
    """The dead tasks of one cause; `sample` is the latest accepted one, `trend` has (Unix seconds, tasks)."""

    type: str
    fingerprint: str  # "" of tasks that ended without one
    tasks: int
    first_at: dt.datetime
    last_at: dt.datetime
    sample: str
    error: str | None = None  # of the sample
    trend: list[tuple[int, int]] = field(default_factory=list)


class Failures:
    """Reads what the loop keeps. Every method raises DatabaseUnavailable."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._search = Search(database)

    def causes(
        self, period: str, *, owner: str | None = None, type_name: str | None = None, limit: int = _MAX_CAUSES
    ) -> list[Cause]:
        """Return the causes with the most dead tasks in a period that ends now."""
        _, step = PERIODS[period]
        where: list[Any] = [] if (since := begin(period)) is None else [Failure.since >= since]
        if owner is not None:
            where.append(Failure.owner == owner)
        if type_name is not None:
            where.append(Failure.type == type_name)
        return read(self._database, partial(self._causes, where, step, limit))

    def count(self, since: dt.datetime, *, owner: str | None = None) -> int:
        """Return how many tasks that died since then (to ten minutes) are dead."""
        where: list[Any] = [Failure.since >= floor(to_ms(since) // 1000, _TEN_MINUTES)]
        if owner is not None:
            where.append(Failure.owner == owner)
        query = Failure.select(peewee.fn.SUM(Failure.tasks)).where(*where)
        return read(self._database, lambda: int(query.scalar() or 0))

    def retrying(self, *, owner: str | None = None, type_name: str | None = None) -> list[Cause]:
        """Return the causes of the last errors of tasks that wait for their next attempt, the most frequent first.

        Of many such tasks the latest are looked at.
        """
        wanted = parse(f"state:{RETRYING} fingerprint:*{f' type:{type_name}' if type_name else ''}")
        wanted = wanted if owner is None else wanted.owned_by(owner)
        key, at, fn = (Task.type, Task.error_fingerprint), Task.started_at, peewee.fn
        values = fn.MIN(at), fn.MAX(at), fn.MAX(Task.id)
        groups, _ = self._search.grouped(wanted, *key, values=values, most=_MAX_RETRYING, seconds=_LOOKING)
        found: dict[tuple[str, str], Cause] = {}
        for name, mark, count, first, last, one in groups:
            cause = found.setdefault((name, mark), Cause(name, mark, 0, _time(first), _time(last), one))
            cause.tasks += count
            cause.first_at, cause.last_at = min(cause.first_at, _time(first)), max(cause.last_at, _time(last))
            cause.sample = max(cause.sample, one)
        causes = sorted(found.values(), key=lambda cause: -cause.tasks)[:_MAX_CAUSES]
        read(self._database, partial(self._add_errors, causes))
        return causes

    def _causes(self, where: Sequence[Any], step: int, limit: int) -> list[Cause]:
        fn = peewee.fn
        tasks = fn.SUM(Failure.tasks)
        columns = (tasks, fn.MIN(Failure.first_at), fn.MAX(Failure.last_at), fn.MAX(Failure.sample))
        query = Failure.select(Failure.type, Failure.fingerprint, *columns)
        if where:
            query = query.where(*where)
        rows: Any = query.group_by(Failure.type, Failure.fingerprint).order_by(tasks.desc()).limit(limit).tuples()
        found = [Cause(name, mark, int(count), *rest) for name, mark, count, *rest in rows]
        if found:
            self._add_errors(found)
            self._add_trends(found, where, step)
        return found

    def _add_errors(self, causes: Sequence[Cause]) -> None:
        query: Any = Task.select(Task.id, Task.error).where(Task.id.in_([cause.sample for cause in causes])).tuples()
        errors = dict(query)
        for cause in causes:
            cause.error = errors.get(cause.sample)

    def _add_trends(self, causes: Sequence[Cause], where: Sequence[Any], step: int) -> None:
        divided = "since DIV" if is_mysql(self._database) else "since /"
        bucket = peewee.SQL(f"{divided} {step}")
        shown = Failure.fingerprint.in_([cause.fingerprint for cause in causes])
        key = (Failure.type, Failure.fingerprint)
        query = Failure.select(*key, bucket, peewee.fn.SUM(Failure.tasks)).where(*where, shown)
        rows: Any = query.group_by(*key, bucket).order_by(bucket).tuples()
        trends: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for name, mark, number, count in rows:
            trends[name, mark].append((int(number) * step, int(count)))
        for cause in causes:
            cause.trend = trends[cause.type, cause.fingerprint]


class FailureRollup:
    """Counts the dead tasks anew, the latest first, again and again: they are replayed and deleted. For one loop."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._cursor: int | None = None  # periods from it on are counted

    def advance(self) -> bool:
        """Count some periods, always the latest and then older ones; return whether older ones are left.

        Raises DatabaseUnavailable.
        """
        now = to_ms(utcnow()) // 1000
        began = time.monotonic()
        latest = floor(now, _TEN_MINUTES)
        for since in (latest, latest - _TEN_MINUTES):
            self._count(since, since + _TEN_MINUTES)
        cursor = self._cursor if self._cursor is not None else latest - _TEN_MINUTES
        while True:
            moment = read(self._database, partial(self._last_before, cursor))
            if moment is None:
                self._cursor = None
                return False
            span = _HOUR if moment < floor(now - _OLD, _HOUR) else _TEN_MINUTES
            self._cursor = cursor = floor(moment, span)
            self._count(cursor, cursor + span)
            if time.monotonic() - began > _BOUND:
                return True

    def _last_before(self, moment: int) -> int | None:
        """The last time before `moment` (Unix seconds) at which a dead task ended or a row is kept."""
        last = Task.select(peewee.fn.MAX(Task.finished_at)).where(
            Task.state == DEAD, Task.finished_at < from_ms(moment * 1000)
        )
        kept = Failure.select(peewee.fn.MAX(Failure.since)).where(Failure.since < moment)
        ended = last.scalar()
        # SQLite keeps any text as a time, and Peewee returns what it cannot parse.
        # `2026-01-01` alone comes before its midnight.
        found = [min(to_ms(ended) // 1000, moment - 1)] if isinstance(ended, dt.datetime) else []
        since = kept.scalar()
        return max([*found, *([since] if since is not None else [])], default=None)

    def _count(self, since: int, until: int) -> None:
        counted, known = read(self._database, lambda: (self._dead(since, until), self._known(since, until)))
        if counted != known:
            transact(self._database, partial(self._replace, since, until, counted))

    def _dead(self, since: int, until: int) -> list[tuple[Any, ...]]:
        sql = (
            "SELECT COALESCE(owner, ''), type, COALESCE(error_fingerprint, ''), COUNT(*), MIN(finished_at),"
            " MAX(finished_at), MAX(id) FROM sytq_tasks WHERE state = ? AND finished_at >= ? AND finished_at < ?"
            " GROUP BY 1, 2, 3"
        )
        rows = execute(self._database, sql, DEAD, whole_second(since), whole_second(until))
        return sorted((since, *row) for row in rows.fetchall())

    def _known(self, since: int, until: int) -> list[tuple[Any, ...]]:
        sql = f"SELECT {', '.join(_COLUMNS)} FROM sytq_failures WHERE since >= ? AND since < ?"  # noqa: S608
        return sorted(execute(self._database, sql, since, until).fetchall())

    def _replace(self, since: int, until: int, rows: Sequence[tuple[Any, ...]]) -> None:
        Failure.delete().where(Failure.since >= since, Failure.since < until).execute()
        if rows:
            columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
            upsert(self._database, "sytq_failures", columns, key=_COLUMNS[:4], replace=_COLUMNS[4:])


def _time(value: dt.datetime | str) -> dt.datetime:
    """A time that SQLite gives as it is stored."""
    return dt.datetime.fromisoformat(value) if isinstance(value, str) else value
