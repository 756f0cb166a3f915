"""Keeps the search index: entries of new tasks and of old ones, and none of tasks that are gone.

Reads the rows, as other programs write them too, outside the transactions that write entries: these are short. Every
step may run twice, and beside a step of another process. Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import peewee
from peewee import fn

from sytq.ledger.database import insert_ignore, is_mysql, read, transact, upsert
from sytq.ledger.models import SearchEntry, SearchProgress, Task
from sytq.ledger.query.sql import json_value
from sytq.ledger.search import Search
from sytq.ledger.search_index import HEAD, TOP, Place, coverage, is_new
from sytq.ledger.search_values import MAX_VALUE, METADATA, OWNER, kept, metadata_entries, stored
from sytq.ledger.slices import below, bound, down_to
from sytq.ledger.values import utcnow

#: Tasks created longer ago than this are committed, but for a transaction that took longer: `verify` finds its tasks.
_COMMITTED = dt.timedelta(seconds=10)
#: The head moves in steps of so many seconds.
_STEP = dt.timedelta(seconds=5)
_DECLARED_EVERY, _OBSOLETE = dt.timedelta(minutes=1), dt.timedelta(hours=1)
_ORDER = Task.created_at.desc(), Task.id.desc()
_EXACT = Task.created_at.cast("CHAR")
#: Tasks whose only entry is the owner's (bytes in MySQL, characters in SQLite), but for those of declared fields.
_OWNER_ALONE: Any = Task.metadata.is_null() & (fn.COALESCE(fn.LENGTH(Task.owner), 0) <= MAX_VALUE)


def begin_anew(database: peewee.Database) -> None:
    """Have the index made anew in the background, after many tasks of the past were written at once."""
    transact(database, SearchProgress.delete().execute)


class SearchUpkeep:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._mysql = is_mysql(database)
        same = "sytq_search.name"
        self._keep = f"ON DUPLICATE KEY UPDATE {same} = {same}" if self._mysql else "ON CONFLICT DO NOTHING"
        self._search = Search(database)
        self._seen = ""  # behind it `index_new` goes on, if that is behind the head
        self._verified: Place | None = None
        self._swept = ""

    def declare(self, fields: Collection[str]) -> None:
        """Index these fields (`payload.order_id`) besides owner and metadata.

        A field that no worker has declared for an hour is dropped: workers of two releases may alternate for a while.
        """
        names, now = {OWNER, METADATA, *fields}, utcnow()
        since = self._search.now() - _COMMITTED

        def work() -> None:
            rows = {row.name: row for row in SearchProgress.select()}
            if HEAD not in rows:
                columns: dict[str, Sequence[Any]] = {"name": [HEAD], "moment": [since]}
                insert_ignore(self._database, "sytq_search_progress", columns)
            known = {name: row.declared_at for name, row in rows.items() if row.declared_at is not None}
            if new := sorted(names - set(known)):
                top = {"moment": [TOP.moment] * len(new), "task_id": [TOP.id] * len(new)}
                columns = {"name": new, **top, "declared_at": [now] * len(new)}
                upsert(self._database, "sytq_search_progress", columns, key=("name",), replace=(*top, "declared_at"))
            if any(known[name] < now - _DECLARED_EVERY for name in names & set(known)):
                SearchProgress.update(declared_at=now).where(SearchProgress.name.in_(names)).execute()
            if obsolete := [name for name in set(known) - names if known[name] < now - _OBSOLETE]:
                SearchProgress.update(declared_at=None).where(SearchProgress.name.in_(obsolete)).execute()

        transact(self._database, work)

    def index_new(self, most: int) -> bool:
        """Index the next tasks that were created since the head; return whether there may be more.

        Each is read twice: at once, so that searches have few to look at that are not indexed, and when all of its time
        are committed: then the head passes it.
        """
        now = self._search.now()
        committed = _text(now - _COMMITTED)

        def find() -> tuple[str, bool, Any, str | None] | None:
            head = coverage().head
            if head is None:
                return None
            moves = head < _text(now - _COMMITTED - _STEP)
            where = Task.created_at > bound(head if moves else max(head, self._seen))
            if moves:
                where &= Task.created_at <= bound(committed)
            last: Any = Task.select(_EXACT).where(where).order_by(Task.created_at).limit(1).offset(most - 1)
            return head, moves, where, next((moment for (moment,) in last.tuples()), None)

        if (found := read(self._database, find)) is None:
            return False
        head, moves, where, end = found
        if end is not None:
            where &= Task.created_at <= bound(end)
        here = SearchProgress.name == HEAD, SearchProgress.moment == head
        self._add(where, None, SearchProgress.update(moment=end or committed).where(*here).execute if moves else None)
        if not moves:
            self._seen = end or _text(now)
        return moves or end is not None

    def fill(self, most: int) -> bool:
        """Index the next older tasks for the names that they have no entries of; return whether there were any."""

        def find() -> tuple[list[str], Place | None, Place | None]:
            pending = {name: place for name, place in coverage().filled.items() if place is not None}
            if not pending:
                return [], None, None
            place = max(pending.values())
            last = Task.select(_EXACT, Task.id).where(below(Task.created_at, Task.id, place)).order_by(*_ORDER)
            names = [name for name, its in pending.items() if its == place]
            return names, place, next(iter(_places(last.limit(1).offset(most - 1))), None)

        names, place, end = read(self._database, find)
        if place is None:
            return False
        where = below(Task.created_at, Task.id, place) & down_to(Task.created_at, Task.id, end)
        here = SearchProgress.name.in_(names), SearchProgress.moment == place.moment, SearchProgress.task_id == place.id
        move = SearchProgress.update(moment=end and end.moment, task_id=end and end.id).where(*here)
        self._add(where, names, move.execute)
        return True

    def verify(self, most: int) -> bool:
        """Index the next older tasks that are not indexed, from the latest on when the oldest were reached; return
        whether there were any.

        A transaction that took long, or a program that chose the time, has written tasks behind the head.
        """

        def find() -> tuple[Place | None, list[str]]:
            if coverage().head is None:
                return None, []
            here = below(Task.created_at, Task.id, self._verified)
            last = Task.select(_EXACT, Task.id).where(here).order_by(*_ORDER).limit(1).offset(most - 1)
            end = next(iter(_places(last)), None)
            late = Task.select(Task.id).where(is_new(), here, down_to(Task.created_at, Task.id, end))
            return end, [row.id for row in late.limit(most)]

        self._verified, late = read(self._database, find)
        for start in range(0, len(late), 500):
            self._add(Task.id.in_(late[start : start + 500]), None)
        return bool(late)

    def sweep(self, most: int) -> None:
        """Drop entries of tasks that are gone, and of names that nobody declares: the next ones by id."""

        entry = SearchEntry.task_id
        its = Task.select(peewee.SQL("1")).where(Task.id == entry, Task.created_at == SearchEntry.moment)
        is_stale = ~fn.EXISTS(its)

        def find() -> tuple[str, list[str]]:
            here = SearchEntry.select(entry).where(entry > self._swept).order_by(entry)
            last = [row.task_id for row in here.limit(1).offset(most - 1)]
            gone = here.where(is_stale)
            if last:
                gone = gone.where(entry <= last[0])
            return last[0] if last else "", [row.task_id for row in gone.distinct()]

        self._swept, gone = read(self._database, find)
        if gone:
            transact(self._database, SearchEntry.delete().where(entry.in_(gone), is_stale).execute)
        self._drop_obsolete(most)

    def _drop_obsolete(self, most: int) -> None:
        obsolete = SearchProgress.declared_at.is_null() & (SearchProgress.name != HEAD)

        def find() -> tuple[str, list[str]] | None:
            for row in SearchProgress.select().where(obsolete).limit(1):
                query = SearchEntry.select(SearchEntry.task_id).where(SearchEntry.name == row.name).limit(most)
                return row.name, [entry.task_id for entry in query]
            return None

        if (found := read(self._database, find)) is None:
            return
        name, ids = found
        if ids:
            mine = SearchEntry.delete().where(SearchEntry.name == name, SearchEntry.task_id.in_(ids))
            transact(self._database, mine.execute)
        else:
            transact(self._database, SearchProgress.delete().where(obsolete, SearchProgress.name == name).execute)

    def _add(self, where: Any, names: Collection[str] | None, also: Callable[[], object] | None = None) -> None:
        """Write the entries of tasks, of these names or of all, and what `also` writes, in one transaction.

        The owner's, which most tasks have alone, the database makes of its rows itself. A task that is committed
        between the two statements has all of its entries or none: it counts as indexed once it has one.
        """
        if names is None:
            names = read(self._database, coverage).filled
        fields = {name: self._value(name) for name in sorted(names) if name.startswith("payload.")}
        alone = _OWNER_ALONE
        for kind, _ in fields.values():
            alone &= kind.is_null()
        entries = read(self._database, lambda: self._entries(where & ~alone, names, fields))

        def work() -> None:
            if OWNER in names:
                its: Any = (peewee.Value(OWNER), fn.COALESCE(Task.owner, ""), Task.created_at, Task.id)
                sql, values = Task.select(*its).where(where, alone).sql()
                into = "INSERT INTO sytq_search (name, value, moment, task_id)"
                self._database.execute_sql(f"{into} {sql} {self._keep}", values)  # type: ignore[no-untyped-call]
            if entries:
                columns = zip(("name", "value", "moment", "task_id"), zip(*entries, strict=True), strict=True)
                insert_ignore(self._database, "sytq_search", dict(columns))
            if also:
                also()

        transact(self._database, work)

    def _value(self, name: str) -> tuple[Any, Any]:
        """The kind and the text of a declared field; its kind is NULL in a payload without it."""
        kind, text = json_value(Task.payload, name.split(".")[1:], self._mysql)
        is_json = fn.JSON_VALID(Task.payload)
        return peewee.Case(None, [(is_json, kind)]), peewee.Case(None, [(is_json, text)])

    def _entries(
        self, where: Any, names: Collection[str], fields: Mapping[str, tuple[Any, Any]]
    ) -> list[tuple[str, ...]]:
        asked = [part for parts in fields.values() for part in parts]
        query: Any = Task.select(Task.id, _EXACT, Task.owner, Task.metadata, *asked).where(where)
        found: list[tuple[str, ...]] = []
        for task_id, moment, owner, metadata, *values in query.tuples():
            its = {OWNER: kept(owner or "")} if OWNER in names else {}
            if METADATA in names:
                its |= metadata_entries(metadata)
            for name, kind, text in zip(fields, values[::2], values[1::2], strict=True):
                if (value := stored(kind, text)) is not None:
                    its[name] = value
            found += [(name, value, moment, task_id) for name, value in its.items()]
        return found


def _places(query: Any) -> list[Place]:
    return [Place(*row) for row in query.tuples()]


def _text(moment: dt.datetime) -> str:
    return moment.isoformat(" ", "microseconds")
