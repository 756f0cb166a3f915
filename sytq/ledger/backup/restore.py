"""Restoring a backup into an empty database of either engine, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import peewee

from sytq.errors import BackupBroken
from sytq.ledger.backup.dump import quote
from sytq.ledger.backup.format import Progress, Summary, check, read
from sytq.ledger.database import is_mysql, transact
from sytq.ledger.migrations import migrate
from sytq.plugins import Plugin

_BATCH_ROWS = 200
_BATCH_CHARACTERS = 2 << 20  # far below MySQL's max_allowed_packet


def restore(path: Path, database: peewee.Database, progress: Progress, plugins: Iterable[Plugin] = ()) -> Summary:
    """Check the file, create the tables, the plugins' too, and write every row.

    Raises BackupBroken when the file is incomplete, or a table has rows or does not fit; nothing is written then.
    DatabaseUnavailable and Peewee's errors leave the database empty too, and the call can be repeated.
    """
    summary = check(path)
    migrate(database, plugins)
    with database.connection_context():
        _prepare(database, summary)
    transact(database, lambda: _write(path, database, summary, progress))
    return summary


def _prepare(database: peewee.Database, summary: Summary) -> None:
    """Raise BackupBroken unless every table exists, has the backup's columns, and is empty."""
    header = summary.header
    applied = {row[0] for row in database.execute_sql("SELECT name FROM sytq_migrations")}
    if newer := [name for name in header.migrations if name not in applied]:
        raise BackupBroken(f"the backup is of a newer sytq (migration {newer[0]}); restore it with that version")
    there = set(database.get_tables())
    engine = "mysql" if is_mysql(database) else "sqlite"
    for table in header.tables:
        if table.name not in there:
            if not table.ddl and not summary.rows[table.name]:
                continue  # an empty table of a plugin that is not installed here
            if not table.ddl:
                raise BackupBroken(f"table '{table.name}' is not there: install the plugin that makes it")
            if header.engine != engine:
                raise BackupBroken(f"table '{table.name}' is not there, and the backup is of {header.engine}: make it")
            for statement in table.ddl:
                database.execute_sql(statement)
        known = {column.name for column in database.get_columns(table.name)}
        if missing := [column for column in table.columns if column not in known]:
            raise BackupBroken(f"table '{table.name}' has no column '{missing[0]}', which the backup has")
        if database.execute_sql(f"SELECT 1 FROM {quote(database, table.name)} LIMIT 1").fetchone():
            raise BackupBroken(f"table '{table.name}' has rows: a backup is restored into an empty database only")


def _write(path: Path, database: peewee.Database, summary: Summary, progress: Progress) -> None:
    off = "SET SESSION foreign_key_checks = 0" if is_mysql(database) else "PRAGMA defer_foreign_keys = ON"
    database.execute_sql(off)  # the file has its rows table by table
    mark = "%s" if is_mysql(database) else "?"
    statements = {}
    for table in summary.header.tables:
        columns = ", ".join(quote(database, column) for column in table.columns)
        marks = ", ".join([mark] * len(table.columns))
        statements[table.name] = f"INSERT INTO {quote(database, table.name)} ({columns}) VALUES ({marks})"
    cursor = database.cursor()
    done = 0
    rows = (part for part in read(path) if isinstance(part, tuple))
    for name, group in groupby(rows, key=lambda row: row[0]):
        batch: list[list[Any]] = []
        size = 0
        for _, values in group:
            batch.append(values)
            size += sum(len(value) for value in values if isinstance(value, str | bytes))
            if len(batch) == _BATCH_ROWS or size > _BATCH_CHARACTERS:
                done += _insert(cursor, statements[name], batch)
                batch, size = [], 0
                progress(done, summary.total, name)
        done += _insert(cursor, statements[name], batch)
    if done != summary.total:  # the file has changed since the check
        raise BackupBroken(f"{path}: it changed while it was read")


def _insert(cursor: Any, statement: str, batch: list[list[Any]]) -> int:
    if batch:
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            cursor.executemany(statement, batch)
    return len(batch)
