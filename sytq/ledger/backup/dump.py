"""Writing a backup: the tables of one snapshot, row by row, without a lock that a writer waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import SSCursor

from sytq.errors import ConfigError
from sytq.ledger.backup.format import Header, Progress, Summary, Table, create
from sytq.ledger.backup.tables import Column, columns, notes, obstacle, quote, run, statements
from sytq.ledger.database import is_mysql
from sytq.ledger.values import iso, utcnow

#: The header names the migrations; the target keeps its own tables of migrations, the plugins' too.
_MIGRATIONS = "sytq_migrations"
#: A restored ledger is another one: both may be in use at once.
_IDENTITY = "sytq_ledger"
#: Made from the tasks, in the background.
_DERIVED = ("sytq_search", "sytq_search_progress")
#: Those of the dashboard: a restore would bring back the ones that were revoked since.
_SESSIONS = "sytq_sessions"
_REPORT = 500  # rows between two reports of progress
#: MySQL's types whose text is exact; Python's values have another range (TIME), or are written otherwise.
_AS_TEXT = (FIELD_TYPE.TIME, FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL)
#: Character sets of which each character has one of its own in Unicode; in others some have none, or share it.
_UNICODE = (None, "utf8", "utf8mb3", "utf8mb4", "ucs2", "utf16", "utf16le", "utf32", "latin1")


def dump(
    database: peewee.Database, path: Path, callers: Sequence[str], progress: Progress, plugins: Sequence[str] = ()
) -> Summary:
    """Write the tables `sytq_*`, those of callers and of plugins to `path`. The connection must not be used meanwhile.

    Raises ConfigError for a table that a backup cannot have, OSError, and Peewee's errors; the file is unusable then.
    """
    with database.connection_context(), _snapshot(database):
        for name in callers:
            if why := obstacle(database, name):
                raise ConfigError(f"table '{name}' {why}; llm.tables lists it")
        there = database.get_tables()
        ours = {name for name in there if name.startswith("sytq_") and not name.startswith(_MIGRATIONS)} - set(callers)
        ours -= {_IDENTITY, _SESSIONS, *_DERIVED}
        others = [name for name in dict.fromkeys([*callers, *plugins]) if name not in ours]
        tables = [_table(database, name, ours=True) for name in sorted(ours)]
        tables += [_table(database, name, ours=False) for name in others]
        names = [table.name for table in tables]
        counts = (f"SELECT COUNT(*) FROM {quote(database, name)}" for name in names)
        expected = sum(run(database, count).fetchone()[0] for count in counts)
        header = Header(
            created_at=iso(utcnow()),
            engine="mysql" if is_mysql(database) else "sqlite",
            migrations=_applied(database, _MIGRATIONS),
            tables=tables,
            expected=expected,
            callers=[name for name in names if name in callers],
            plugins={
                name.removeprefix(f"{_MIGRATIONS}_"): _applied(database, name)
                for name in there
                if name.startswith(f"{_MIGRATIONS}_")
            },
            notes=[note for name in callers for note in notes(database, name, names)],
        )
        done = 0
        with create(path, header) as writer:
            for table in tables:
                writer.begin(table.name)
                for row in _rows(database, table):
                    writer.row(row)
                    done += 1
                    if done % _REPORT == 0:
                        progress(done, expected, table.name)
            return writer.finish()


@contextmanager
def _snapshot(database: peewee.Database) -> Iterator[None]:
    connection = database.connection()
    if is_mysql(database):
        database.execute_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        database.execute_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        before = connection.decoders
        connection.decoders = {kind: how for kind, how in before.items() if kind not in _AS_TEXT}
    else:
        database.execute_sql("BEGIN DEFERRED")
        database.execute_sql("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # the first read takes the snapshot
        before = connection.text_factory
        connection.text_factory = _text
    try:
        yield
    finally:
        if is_mysql(database):
            connection.decoders = before
        else:
            connection.text_factory = before
        database.execute_sql("ROLLBACK")


def _text(raw: bytes) -> str:
    """SQLite keeps any bytes as text; those that are no UTF-8 become surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def _table(database: peewee.Database, name: str, *, ours: bool) -> Table:
    kept = [column.name for column in columns(database, name) if not column.generated]
    return Table(name, kept, [] if ours else statements(database, name))


def _applied(database: peewee.Database, history: str) -> list[str]:
    return [row[0] for row in run(database, f"SELECT name FROM {quote(database, history)} ORDER BY name")]


def _rows(database: peewee.Database, table: Table) -> Iterator[tuple[Any, ...]]:
    """Stream the rows: neither side holds the whole table."""
    kept = [column for column in columns(database, table.name) if not column.generated]
    exact = ", ".join(_exact(database, table.name, column) for column in kept)
    connection = database.connection()
    cursor = connection.cursor(SSCursor) if is_mysql(database) else connection.cursor()
    cursor.execute(f"SELECT {exact} FROM {quote(database, table.name)}")
    while rows := cursor.fetchmany(100):
        yield from rows
    cursor.close()


def _exact(database: peewee.Database, table: str, column: Column) -> str:
    """What reads a column's values without a loss."""
    name = quote(database, column.name)
    if is_mysql(database) and column.type == "float":
        return f"{name} * 1e0"  # MySQL writes six digits of a FLOAT, and all of a DOUBLE
    if column.charset not in _UNICODE:
        back = f"CONVERT(CONVERT({name} USING utf8mb4) USING {column.charset})"
        lossy = f"SELECT 1 FROM {quote(database, table)} WHERE BINARY {back} <> BINARY {name} LIMIT 1"
        if run(database, lossy).fetchone():
            return f"BINARY {name}"
    return name
