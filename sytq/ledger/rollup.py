"""The figures of periods, counted from the tasks a minute at a time; ten minutes and hours are sums of minutes.

Counting a minute again changes nothing unless rows came late, and a figure never falls: a dead task that is replayed or
deleted was dead in its minute all the same. Reads no task that no index finds by its time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import peewee

from sytq.ledger.database import execute, execute_many, is_mysql, marks, read, transact
from sytq.ledger.hold import position
from sytq.ledger.models import Figure, Task
from sytq.ledger.values import floor, to_ms, utcnow, whole_second
from sytq.states import TERMINAL

MINUTE, TEN_MINUTES, HOUR = 60, 600, 3600
_DAY = 24 * HOUR
#: Span of the rows in seconds -> for how long they are kept.
KEPT = {MINUTE: _DAY, TEN_MINUTES: 8 * _DAY, HOUR: 90 * _DAY}
#: How far back tasks are counted that ended before there were figures.
_FILLED = 7 * _DAY
#: Rows of a transaction that commits late, or of a clock that is behind.
_LATE = 3 * MINUTE
#: Seconds that one read of tasks should take; it covers fewer minutes where it takes longer.
_SLOW, _QUICK = 0.5, 0.1

_KEY = ("owner", "type", "queue", "priority")
_VALUES = (
    *("accepted", "succeeded", "dead", "cancelled"),
    *("retries", "ran", "waiting_seconds", "running_seconds"),
)
_COLUMNS = ("span", "since", *_KEY, *_VALUES)
_GROUP = "COALESCE(owner, ''), type, COALESCE(queue, ''), COALESCE(priority, '')"

#: A row's key behind its span -> its values.
_Rows = dict[tuple[Any, ...], list[float]]


class Rollup:
    """Counts what has come and ended since the last look, then the week before; each hour the last day again, in which
    rows may have come late. Belongs to one loop, which may overlap with another worker's.

    With `whole` it counts the whole week, also what somebody has counted: rows with old times have come meanwhile.
    """

    def __init__(self, database: peewee.Database, *, whole: bool = False) -> None:
        self._database = database
        self._whole = whole
        self._mysql = is_mysql(database)
        self._next: int | None = None  # minutes before it are counted, back to `_oldest`
        self._oldest = 0
        self._again, self._before = 0, 0  # down to `_again` they are counted again, then before `_before`
        self._resume_at = 0.0
        self._recorded = 0  # ends after it may not have been rows at the last look
        self._minutes = 10  # that one read covers
        self._prune_at = 0.0

    def advance(self) -> bool:
        """Count some minutes; return whether there are more to count. Raises DatabaseUnavailable."""
        now = to_ms(utcnow()) // 1000
        recorded = read(self._database, position) // 1000
        if self._next is None or time.monotonic() >= self._resume_at:
            self._next, self._before = self._resume(now, recorded)
            self._oldest, self._again = self._next, self._next - _DAY
            self._resume_at = time.monotonic() + HOUR
        elif recorded != self._recorded:
            self._next = min(self._next, max(floor(self._recorded, MINUTE), floor(now - _FILLED, MINUTE)))
        self._recorded = recorded
        began = time.monotonic()
        until = min(self._next + self._minutes * MINUTE, floor(now, MINUTE) + MINUTE)
        self._count(self._next, until)
        if until <= now:
            self._next, more = until, True
        else:
            self._next, more = floor(now - _LATE, MINUTE), self._fill(now)
        self._adapt(time.monotonic() - began)
        self._prune(now)
        return more

    def _resume(self, now: int, recorded: int) -> tuple[int, int]:
        """Return from where on to count, and down to where another worker has counted.

        What had come late, that worker may not have counted before it died: the day before is counted again.
        """

        def known() -> tuple[int | None, int | None]:
            latest = (
                Figure.select(peewee.fn.MAX(Figure.since)).where(Figure.span == span).scalar()
                for span in (MINUTE, HOUR)
            )
            oldest = Figure.select(peewee.fn.MIN(Figure.since)).where(Figure.span == HOUR).scalar()
            return next((since for since in latest if since is not None), None), oldest

        latest, oldest = read(self._database, known)
        begin = floor(now - _LATE, MINUTE)
        if self._whole or latest is None or oldest is None:
            return begin, begin
        if recorded:
            latest = min(latest, recorded)
        # The oldest hour may not be whole.
        return max(min(begin, floor(latest - _LATE, MINUTE)), floor(now - _FILLED, MINUTE)), oldest + HOUR

    def _fill(self, now: int) -> bool:
        """Count the minutes before the oldest in which something came or ended, until a week is counted."""
        end = floor(now - _FILLED, HOUR)
        if self._oldest <= self._again:
            self._oldest = min(self._oldest, self._before)
        if self._oldest > end:
            until = min(
                self._oldest, floor(read(self._database, partial(self._last_before, self._oldest)), MINUTE) + MINUTE
            )
            self._oldest = max(until - self._minutes * MINUTE, end)
            if until > end:
                self._count(self._oldest, until)
        return self._oldest > end

    def _last_before(self, moment: int) -> int:
        """The last time before `moment` (Unix seconds) at which a task came or ended; 0 without any."""
        bound = whole_second(moment)
        queries = [Task.select(peewee.fn.MAX(Task.created_at)).where(Task.created_at < bound)]
        queries += [
            Task.select(peewee.fn.MAX(Task.finished_at)).where(Task.state == state, Task.finished_at < bound)
            for state in TERMINAL
        ]
        found = [query.scalar() for query in queries]
        if any(isinstance(time, str) for time in found):  # SQLite keeps any text as a time
            return moment
        return max((to_ms(time) // 1000 for time in found if time is not None), default=0)

    def _adapt(self, took: float) -> None:
        if took > _SLOW:
            self._minutes = max(1, self._minutes // 2)
        elif took < _QUICK:
            self._minutes = min(60, self._minutes * 2)

    def _count(self, since: int, until: int) -> None:
        """Count the minutes of [since, until) and what they are part of."""
        counted = read(self._database, partial(self._tasks, since, until))
        if grown := _grown(counted, read(self._database, partial(self._known, since, until))):
            transact(self._database, partial(self._write, grown))

    def _tasks(self, since: int, until: int) -> _Rows:
        """The minutes' figures, as the rows of the tasks give them."""
        found: _Rows = {}
        between = tuple(map(whole_second, (since, until)))

        def rows(columns: str, moment: str, where: str, *values: Any) -> Iterator[tuple[Any, ...]]:
            sql = (
                f"SELECT {self._minute(moment)}, {_GROUP}, {columns} FROM sytq_tasks "  # noqa: S608
                f"WHERE {where}{moment} >= ? AND {moment} < ? GROUP BY 1, 2, 3, 4, 5"
            )
            for minute, *rest in execute(self._database, sql, *values, *between).fetchall():
                if minute is not None:  # SQLite keeps any text as a time
                    yield (int(minute) * MINUTE, *rest)

        for *key, count in rows("COUNT(*)", "created_at", ""):
            _of(found, key)[0] += int(count)
        for state in TERMINAL:
            for *key, count, retries, ran, waiting, running in rows(
                self._ended(), "finished_at", "state = ? AND ", state
            ):
                values = _of(found, key)
                values[_VALUES.index(state)] += int(count)
                for place, value in enumerate((retries, ran, waiting, running), start=4):
                    values[place] += float(value) if place > 5 else int(value)
        return found

    def _ended(self) -> str:
        """What is counted of ended tasks; a task waits from its time, or its replay, to its last start."""
        came = "COALESCE(revived_at, created_at)"
        due = f"CASE WHEN scheduled_at > {came} AND scheduled_at < finished_at THEN scheduled_at ELSE {came} END"
        waiting = f"CASE WHEN started_at > {due} THEN {self._seconds(due, 'started_at')} ELSE 0 END"
        running = f"CASE WHEN finished_at > started_at THEN {self._seconds('started_at', 'finished_at')} ELSE 0 END"
        retries = "CASE WHEN attempts > 1 THEN attempts - 1 ELSE 0 END"
        sums = f"COALESCE(SUM({waiting}), 0), COALESCE(SUM({running}), 0)"
        return f"COUNT(*), SUM({retries}), COUNT(started_at), {sums}"

    def _minute(self, moment: str) -> str:
        if self._mysql:
            return f"TIMESTAMPDIFF(MINUTE, '1970-01-01', {moment})"
        return f"CAST(strftime('%s', {moment}) AS INTEGER) / {MINUTE}"

    def _seconds(self, since: str, until: str) -> str:
        if self._mysql:
            return f"TIMESTAMPDIFF(MICROSECOND, {since}, {until}) / 1e6"
        return f"(julianday({until}) - julianday({since})) * {_DAY}.0"

    def _known(self, since: int, until: int) -> _Rows:
        query: Any = Figure.select().where(Figure.span == MINUTE, Figure.since >= since, Figure.since < until).tuples()
        return {tuple(row[1:6]): list(row[6:]) for row in query}

    def _write(self, minutes: _Rows) -> None:
        """Write grown minutes and the longer spans that they are part of, inside the caller's transaction."""
        self._upsert(MINUTE, minutes)
        first, last = min(key[0] for key in minutes), max(key[0] for key in minutes)
        for finer, span in ((MINUTE, TEN_MINUTES), (TEN_MINUTES, HOUR)):
            self._upsert(span, self._sums(finer, span, floor(first, span), floor(last, span) + span))

    def _sums(self, finer: int, span: int, since: int, until: int) -> _Rows:
        sums = ", ".join(f"SUM({name})" for name in _VALUES)
        bucket = f"since {'DIV' if self._mysql else '/'} {span}"
        sql = (
            f"SELECT {bucket}, {', '.join(_KEY)}, {sums} FROM sytq_figures "  # noqa: S608
            "WHERE span = ? AND since >= ? AND since < ? GROUP BY 1, 2, 3, 4, 5"
        )
        if self._mysql:  # waits for minutes that another worker has not committed: both would leave them out of the sum
            sql += " FOR UPDATE"
        rows = execute(self._database, sql, finer, since, until).fetchall()
        return {(int(row[0]) * span, *row[1:5]): [float(value) for value in row[5:]] for row in rows}

    def _upsert(self, span: int, rows: _Rows) -> None:
        """A value that is there stays if it is greater: two workers may count at once, and shorter spans go first."""
        if self._mysql:
            conflict, greater = "ON DUPLICATE KEY UPDATE", "GREATEST({0}, VALUES({0}))"
        else:
            conflict, greater = f"ON CONFLICT (span, since, {', '.join(_KEY)}) DO UPDATE SET", "MAX({0}, excluded.{0})"
        assigned = ", ".join(f"{name} = {greater.format(name)}" for name in _VALUES)
        sql = (
            f"INSERT INTO sytq_figures ({', '.join(_COLUMNS)}) "  # noqa: S608
            f"VALUES ({marks(self._database, len(_COLUMNS))}) {conflict} {assigned}"
        )
        execute_many(self._database, sql, ((span, *key, *values) for key, values in rows.items()))

    def _prune(self, now: int) -> None:
        """Delete rows that are past their time: an hour's worth of them in a transaction, and in one call."""
        if time.monotonic() < self._prune_at:
            return
        more = False
        for span, kept in KEPT.items():
            old = Figure.span == span, Figure.since < now - kept
            query = Figure.select(Figure.since).where(*old).distinct().order_by(Figure.since).limit(60)
            if periods := read(self._database, lambda query=query: [row.since for row in query]):  # type: ignore[misc]
                transact(self._database, Figure.delete().where(*old, Figure.since <= periods[-1]).execute)
                more = True
        self._prune_at = time.monotonic() + (0 if more else HOUR)


def _of(rows: _Rows, key: list[Any]) -> list[float]:
    return rows.setdefault(tuple(key), [0] * len(_VALUES))


def _grown(counted: _Rows, known: _Rows) -> _Rows:
    """The counted rows with a value above the known one. Sums of seconds vary in their last digits."""

    def has_grown(key: tuple[Any, ...], values: list[float]) -> bool:
        before = known.get(key)
        return before is None or any(value > was + 1e-6 for value, was in zip(values, before, strict=True))

    return {key: values for key, values in counted.items() if has_grown(key, values)}
