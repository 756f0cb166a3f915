"""Restoring a backup into an empty database of either engine, the rows in one transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import peewee

from sytq.errors import BackupBroken
from sytq.ledger.backup.format import Header, Progress, Summary, Table, check, read
from sytq.ledger.backup.insert import Insert
from sytq.ledger.backup.tables import columns, quote, run, statements
from sytq.ledger.database import is_mysql
from sytq.ledger.migrations import migrate, unknown
from sytq.ledger.models import SearchProgress
from sytq.ledger.refusals import said, verdict
from sytq.ledger.search_upkeep import begin_anew
from sytq.plugins import Plugin

_BATCH_ROWS = 200
_BATCH_CHARACTERS = 2 << 20  # far below MySQL's max_allowed_packet
#: What a table took where it was backed up, it takes again: '' in an ENUM, February 31, 0 as a serial number.
_AS_IT_WAS = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION"
_STRICT = f"STRICT_ALL_TABLES,{_AS_IT_WAS}"
_COUNTER = re.compile(r" AUTO_INCREMENT=\d+")


def restore(path: Path, database: peewee.Database, progress: Progress, plugins: Iterable[Plugin] = ()) -> Summary:
    """Check the file, make the tables as they were, write every row, and apply the migrations that are newer.

    Raises BackupBroken when the file is incomplete, a table has rows or does not fit, or the database refuses a table
    or a row. DatabaseUnavailable and Peewee's errors pass. No row is written then, and the call can be repeated.
    """
    plugins = list(plugins)
    summary = check(path)
    header = summary.header
    refuse_newer(header, plugins)
    with database.connection_context():
        _refuse_rows(database, header)
    migrate(database, plugins, header.level)
    try:
        with database.connection_context():
            _check_less(database)
            for table in header.tables:
                _prepare(database, summary, table, plugins)
            with database.atomic():
                _write(path, database, summary, progress)
    finally:
        database.close_all()  # type: ignore[attr-defined]  # no other work gets a session that checks less
    migrate(database, plugins)
    with database.bind_ctx([SearchProgress]):
        begin_anew(database)
    return summary


def refuse_newer(header: Header, plugins: Iterable[Plugin] = ()) -> None:
    """Raise BackupBroken if the tables of the backup are newer than this version or its plugins."""
    if newer := unknown(header.level, plugins):
        raise BackupBroken(
            f"the backup is of a newer sytq or plugin (migration {newer[0]}); restore it with that version"
        )


def _refuse_rows(database: peewee.Database, header: Header) -> None:
    there = set(database.get_tables())
    for table in sorted(header.tables, key=lambda table: table.name != "sytq_tasks"):
        if table.name in there and run(database, f"SELECT 1 FROM {quote(database, table.name)} LIMIT 1").fetchone():
            raise BackupBroken(f"table '{table.name}' has rows: a backup is restored into an empty database only")


def _check_less(database: peewee.Database) -> None:
    """The rows were in a database already: they may refer to rows that come later, or that nobody has."""
    if is_mysql(database):
        run(database, "SET SESSION foreign_key_checks = 0 /*M!, check_constraint_checks = 0 */")
    else:
        run(database, "PRAGMA foreign_keys = OFF")
        run(database, "PRAGMA ignore_check_constraints = ON")


def _prepare(database: peewee.Database, summary: Summary, table: Table, plugins: Iterable[Plugin]) -> None:
    """Make a table that is missing or that a migration made in place of the caller's. Raises BackupBroken."""
    header = summary.header
    same_engine = header.engine == ("mysql" if is_mysql(database) else "sqlite")
    missing = table.name not in database.get_tables()
    if missing and not table.ddl:
        if summary.rows[table.name]:
            raise BackupBroken(f"table '{table.name}' is not there: install the plugin that makes it")
        return  # an empty table of a plugin that is not installed here
    if missing and not same_engine:
        raise BackupBroken(f"table '{table.name}' is not there, and the backup is of {header.engine}: make it")
    if missing or (table.ddl and same_engine and _is_replaced(database, header, table, plugins)):
        _make(database, table, drop=not missing)
    known = {column.name.lower() for column in columns(database, table.name)}
    if lacking := [column for column in table.columns if column.lower() not in known]:
        raise BackupBroken(f"table '{table.name}' has no column '{lacking[0]}', which the backup has: add it")


def _is_replaced(database: peewee.Database, header: Header, table: Table, plugins: Iterable[Plugin]) -> bool:
    """Whether the empty table that is there gives way to the backup's: no program but sytq made it, or both are one.

    A table of a caller that the caller's program has made stays: the program may be newer than the backup.
    """
    if _is_same(database, table):
        return not is_mysql(database)  # its triggers would see the rows as new, its sequence is not the backup's
    models = (model for plugin in plugins for model in plugin.models)
    of_model = {model._meta.table_name: set(model._meta.columns) for model in models}
    there = {column.name for column in columns(database, table.name)}
    return there == of_model.get(table.name) and (table.name in header.callers or not there.issuperset(table.columns))


def _is_same(database: peewee.Database, table: Table) -> bool:
    """Whether the table that is there is as in the backup, but for its next serial number."""
    there, made = (_COUNTER.sub("", of[0]) for of in (statements(database, table.name), table.ddl))
    return there == made


def _make(database: peewee.Database, table: Table, *, drop: bool) -> None:
    try:
        if is_mysql(database):
            run(database, f"SET SESSION sql_mode = '{_AS_IT_WAS}'")
        if drop:
            run(database, f"DROP TABLE {quote(database, table.name)}")
        run(database, table.ddl[0])
    except peewee.PeeweeException as error:
        raise BackupBroken(
            f"table '{table.name}' cannot be made as it was: {said(error)}; make it yourself, empty, and restore again"
        ) from None


def _write(path: Path, database: peewee.Database, summary: Summary, progress: Progress) -> None:
    done = 0
    tables = {table.name: table for table in summary.header.tables}
    rows = (part for part in read(path) if isinstance(part, tuple))
    for name, group in groupby(rows, key=lambda row: row[0]):
        if is_mysql(
            database
        ):  # in old backups, which name no callers, a TIME may be in a form that needs to be refused
            same = name in summary.header.callers and _is_same(database, tables[name])
            run(database, f"SET SESSION sql_mode = '{_AS_IT_WAS if same else _STRICT}'")
        insert = Insert(database, tables[name])
        try:
            for batch in _batches(values for _, values in group):
                done += insert(batch)
                progress(done, summary.total, name)
        except peewee.PeeweeException as error:
            if verdict(error) != "fault":
                raise
            raise BackupBroken(f"table '{name}' does not take the backup's rows: {said(error)}") from None
    if done != summary.total:  # the file has changed since the check
        raise BackupBroken(f"{path}: it changed while it was read")
    for table in tables.values():
        if table.ddl[1:] and not is_mysql(database) and _is_same(database, table):
            for statement in table.ddl[1:]:
                run(database, statement)


def _batches(rows: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    batch: list[list[Any]] = []
    size = 0
    for values in rows:
        batch.append(values)
        size += sum(len(value) for value in values if isinstance(value, str | bytes))
        if len(batch) == _BATCH_ROWS or size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
