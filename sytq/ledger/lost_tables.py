"""Tables that migrations have made and that are gone: which they are, and how they are made anew, empty.

Someone dropped them, or restored a dump without them. The migrations made them, so the migrations say how they look.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import peewee
from playhouse.migrations import Runner

from sytq.ledger.database import insert_ignore

#: Of sytq and its plugins; callers' tables are theirs to drop.
_OURS = re.compile(r"\bsytq_\w+")


def lost(database: peewee.Database, runner: Runner) -> set[str]:
    """Return the tables that the applied migrations of `runner` have made and the database lacks."""
    known = runner.status()
    if not any(found.path and found.applied for found in known):
        return set()
    made = _made_by(runner.directory)
    ours: set[str] = set()
    before: frozenset[str] = frozenset()
    for found in known:
        if found.path:
            after = made.get(found.name, before)
            if found.applied:  # a pending one makes its tables itself, also one with an earlier number
                ours |= after - before
                ours -= before - after
            before = after
    return ours - set(database.get_tables()) if ours else ours


def make_anew(database: peewee.Database, runner: Runner, tables: set[str]) -> None:
    """Make these tables as the applied migrations left them."""
    only: Any = _Only(database, tables)
    for found in runner.status():
        if found.path and found.applied:
            found.load().up(runner.migrator, only)
    if "sytq_search" in tables:  # an empty index has nothing of what it had reached
        database.execute_sql("DELETE FROM sytq_search_progress")  # type: ignore[no-untyped-call]
    if "sytq_unique" in tables:  # the rows of the tasks say what it had
        query = "SELECT unique_key, id FROM sytq_tasks WHERE unique_key IS NOT NULL AND state IN {}"
        unfinished = "('queued', 'scheduled', 'running', 'retrying')"
        rows: list[tuple[str, str]] = database.execute_sql(query.format(unfinished)).fetchall()  # type: ignore[no-untyped-call]
        if rows:
            keys, ids = zip(*rows, strict=True)
            insert_ignore(database, "sytq_unique", {"unique_key": keys, "task_id": ids})


class _Only:
    """A database that runs no statement but those about some tables."""

    def __init__(self, database: peewee.Database, tables: set[str]) -> None:
        self._database = database
        self._tables = tables

    @property  # type: ignore[misc]  # migrations ask which engine it is
    def __class__(self) -> type:
        return type(self._database)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def execute_sql(self, sql: str, *arguments: Any) -> Any:
        named = _OURS.findall(sql)
        # An index of a table begins with its name.
        if any(word == table or word.startswith(f"{table}_") for word in named for table in self._tables):
            return self._database.execute_sql(sql, *arguments)  # type: ignore[no-untyped-call]
        return None


@lru_cache
def _made_by(directory: str) -> dict[str, frozenset[str]]:
    """The tables that there are after each migration of a folder, by its name; none where one needs MySQL or rows."""
    database = peewee.SqliteDatabase(":memory:")
    runner = Runner(database, directory=directory, table_name="history")
    made: dict[str, frozenset[str]] = {}
    try:
        for found in runner.migrations():
            runner.up(found.name)
            made[found.name] = frozenset(filter(_OURS.fullmatch, database.get_tables()))
    except Exception:  # a plugin's may do anything
        return {}
    finally:
        database.close()
    return made
