"""Writing a backup: the tables of one snapshot, row by row, without a lock that a writer waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee
from pymysql.cursors import SSCursor

from sytq.errors import ConfigError
from sytq.ledger.backup.format import Header, Progress, Summary, Table, create
from sytq.ledger.database import is_mysql
from sytq.ledger.values import iso, utcnow

#: The header names the core's migrations; the target keeps its own tables of migrations, the plugins' too.
_MIGRATIONS = "sytq_migrations"
_REPORT = 500  # rows between two reports of progress


def dump(database: peewee.Database, path: Path, others: Sequence[str], progress: Progress) -> Summary:
    """Write the tables `sytq_*` and `others` to `path`. The connection must not be used meanwhile.

    Raises ConfigError for a missing table, OSError, and Peewee's errors; the file is unusable then.
    """
    with database.connection_context(), _snapshot(database):
        there = set(database.get_tables())
        for name in others:
            if name not in there:
                raise ConfigError(f"table '{name}' is not in the database; llm.tables lists it")
        names = sorted(name for name in there if name.startswith("sytq_") and not name.startswith(_MIGRATIONS))
        tables = [_table(database, name, ours=True) for name in names]
        tables += [_table(database, name, ours=False) for name in others if name not in names]
        counts = (f"SELECT COUNT(*) FROM {quote(database, table.name)}" for table in tables)
        expected = sum(database.execute_sql(count).fetchone()[0] for count in counts)
        header = Header(
            created_at=iso(utcnow()),
            engine="mysql" if is_mysql(database) else "sqlite",
            migrations=[row[0] for row in database.execute_sql(f"SELECT name FROM {_MIGRATIONS} ORDER BY name")],
            tables=tables,
            expected=expected,
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


def quote(database: peewee.Database, name: str) -> str:
    """Quote the name of a table or column."""
    return f"`{name.replace('`', '``')}`" if is_mysql(database) else '"{}"'.format(name.replace('"', '""'))


@contextmanager
def _snapshot(database: peewee.Database) -> Iterator[None]:
    if is_mysql(database):
        database.execute_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        database.execute_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    else:
        database.execute_sql("BEGIN DEFERRED")
        database.execute_sql("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # the first read takes the snapshot
    try:
        yield
    finally:
        database.execute_sql("ROLLBACK")


def _table(database: peewee.Database, name: str, *, ours: bool) -> Table:
    columns = [column.name for column in database.get_columns(name)]
    ddl: list[str] = []
    if not ours and is_mysql(database):
        ddl = [database.execute_sql(f"SHOW CREATE TABLE {quote(database, name)}").fetchone()[1]]
    elif not ours:
        query = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC"
        ddl = [row[0] for row in database.execute_sql(query, (name,))]
    return Table(name, columns, ddl)


def _rows(database: peewee.Database, table: Table) -> Iterator[tuple[Any, ...]]:
    """Stream the rows: neither side holds the whole table."""
    connection = database.connection()
    cursor = connection.cursor(SSCursor) if is_mysql(database) else connection.cursor()
    columns = ", ".join(quote(database, column) for column in table.columns)
    cursor.execute(f"SELECT {columns} FROM {quote(database, table.name)}")
    while rows := cursor.fetchmany(100):
        yield from rows
    cursor.close()
