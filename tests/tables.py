"""The tables of sytq in a test's database: the first of an engine is migrated, the others get a copy of its schema.

Two dozen migrations cost MariaDB four times as much as the tables that they end with.
"""

from __future__ import annotations

import peewee

from sytq import plugins
from sytq.ledger.database import is_mysql, read
from sytq.ledger.migrations import migrate

_Statements = list[tuple[str, tuple[object, ...]]]
#: The statements that make the migrated schema, once an engine (by whether it is MySQL) was migrated.
_schemas: dict[bool, _Statements] = {}


def make_tables(database: peewee.Database) -> None:
    """Make the tables as the migrations of the core and of the built-in plugins leave them."""
    mysql = is_mysql(database)
    with database.connection_context():
        empty = not database.get_tables()
    if empty and mysql in _schemas:
        read(database, lambda: _execute(database, _schemas[mysql]))
        return
    migrate(database, plugins.find(()).plugins)
    if empty:
        _schemas[mysql] = read(database, lambda: _mysql_schema(database) if mysql else _sqlite_schema(database))


def _execute(database: peewee.Database, statements: _Statements) -> None:
    with database.atomic():  # one write to the disk on SQLite
        for sql, arguments in statements:
            database.execute_sql(sql, arguments)


def _mysql_schema(database: peewee.Database) -> _Statements:
    made = [database.execute_sql(f"SHOW CREATE TABLE `{table}`").fetchone()[1] for table in database.get_tables()]
    return [(sql, ()) for sql in made] + _rows(database)


def _sqlite_schema(database: peewee.Database) -> _Statements:
    made = database.execute_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
    return [(sql, ()) for (sql,) in made] + _rows(database)


def _rows(database: peewee.Database) -> _Statements:
    """What the migrations recorded in their own tables; all others are empty."""
    statements: _Statements = []
    mark = database.param
    for table in database.get_tables():
        rows = database.execute_sql(f"SELECT * FROM {table}").fetchall()
        statements += [(f"INSERT INTO {table} VALUES ({', '.join([mark] * len(row))})", tuple(row)) for row in rows]
    return statements
