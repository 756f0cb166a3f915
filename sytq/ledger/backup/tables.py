"""Tables as a database has them: their columns, the statements that make them, and what no backup can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from sytq.ledger.database import is_mysql


@dataclass(frozen=True, slots=True)
class Column:
    """A column; the database computes the values of a `generated` one and takes no others. Texts have a `charset`."""

    name: str
    type: str
    generated: bool
    charset: str | None = None


def quote(database: peewee.Database, name: str) -> str:
    """Quote the name of a table or column."""
    return f"`{name.replace('`', '``')}`" if is_mysql(database) else '"{}"'.format(name.replace('"', '""'))


def run(database: peewee.Database, sql: str) -> Any:
    """Run a statement as it is: Peewee has PyMySQL take a `%` of a name or a default for a placeholder."""
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        cursor = database.cursor()
        cursor.execute(sql)
    return cursor


def columns(database: peewee.Database, table: str) -> list[Column]:
    """All columns of a table in order, also invisible ones."""
    if not is_mysql(database):
        rows = run(database, f"PRAGMA table_xinfo({quote(database, table)})").fetchall()
        return [Column(row[1], row[2].lower(), row[6] in (2, 3)) for row in rows]
    query = """
        SELECT column_name, data_type, generation_expression, character_set_name FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position"""
    rows = database.execute_sql(query, (table,)).fetchall()
    return [Column(name, kind.lower(), bool(expression), charset) for name, kind, expression, charset in rows]


def statements(database: peewee.Database, table: str) -> list[str]:
    """What makes the table: first the table itself; SQLite's indexes, sequence and triggers can follow the rows."""
    if is_mysql(database):
        return [run(database, f"SHOW CREATE TABLE {quote(database, table)}").fetchone()[1]]
    query = """
        SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL
        ORDER BY type = 'table' DESC, type = 'trigger', rowid"""
    made = [row[0] for row in database.execute_sql(query, (table,))]
    if "sqlite_sequence" in database.get_tables():
        literal = "'{}'".format(table.replace("'", "''"))
        for (last,) in database.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchall():
            made.append(f"DELETE FROM sqlite_sequence WHERE name = {literal}")
            made.append(f"INSERT INTO sqlite_sequence (name, seq) VALUES ({literal}, {int(last)})")
    return made


def obstacle(database: peewee.Database, table: str) -> str | None:
    """Why a backup cannot have a caller's table, as the end of a sentence; None if it can."""
    if is_mysql(database):
        query = """
            SELECT table_type FROM information_schema.tables
            WHERE table_schema = DATABASE() AND table_name = %s AND BINARY table_name = %s"""
        kind = (database.execute_sql(query, (table, table)).fetchone() or ("",))[0]
        return _OBSTACLES.get(kind)
    query = "SELECT type, sql FROM sqlite_master WHERE name = ? AND type IN ('table', 'view')"
    kind, sql = database.execute_sql(query, (table,)).fetchone() or ("", "")
    if sql.upper().startswith("CREATE VIRTUAL"):
        kind = "VIRTUAL"
    return _OBSTACLES.get(kind.upper()) or _unusable(database, table)


_OBSTACLES = {
    "": "is not in the database",
    "VIEW": "is a view: list the tables that it reads",
    "SYSTEM VIEW": "is a view of the server's own",
    "SEQUENCE": "is a sequence, which has no rows",
    "VIRTUAL": "is a virtual table: list the table whose rows it has",
}


def _unusable(database: peewee.Database, table: str) -> str | None:
    """What SQLite says of the table where its program's own functions and collations are not there."""
    names = ", ".join(quote(database, column.name) for column in columns(database, table) if not column.generated)
    there = peewee.SqliteDatabase(":memory:")
    try:
        made, *rest = statements(database, table)
        run(there, made)
        run(
            there,
            f"EXPLAIN INSERT INTO {quote(database, table)} ({names}) SELECT {names} FROM {quote(database, table)}",
        )
        for statement in rest:
            run(there, statement)
    except peewee.PeeweeException as error:
        return f"can be made by its own program only ({error})"
    finally:
        there.close()
    return None


def notes(database: peewee.Database, table: str, backed_up: Sequence[str]) -> list[str]:
    """What a restored table lacks or needs, a sentence each."""
    said = []
    if is_mysql(database):
        query = """
            SELECT table_type, engine, (SELECT transactions FROM information_schema.engines e WHERE e.engine = t.engine)
            FROM information_schema.tables t WHERE table_schema = DATABASE() AND table_name = %s"""
        kind, engine, transactions = database.execute_sql(query, (table,)).fetchone()
        if kind == "SYSTEM VERSIONED":
            said.append(f"table '{table}' keeps earlier versions of its rows: the backup has their last version only")
        if transactions != "YES":
            said.append(f"table '{table}' ({engine}) has no transactions: its rows may be of different moments")
        query = """
            SELECT trigger_name FROM information_schema.triggers
            WHERE event_object_schema = DATABASE() AND event_object_table = %s ORDER BY 1"""
        triggers = [row[0] for row in database.execute_sql(query, (table,)).fetchall()]
        said += [f"trigger '{name}' of table '{table}' is not in the backup: make it again" for name in triggers]
        query = """
            SELECT DISTINCT referenced_table_name FROM information_schema.key_column_usage
            WHERE table_schema = DATABASE() AND table_name = %s AND referenced_table_name IS NOT NULL ORDER BY 1"""
        parents = [row[0] for row in database.execute_sql(query, (table,)).fetchall()]
    else:
        parents = sorted({row[2] for row in run(database, f"PRAGMA foreign_key_list({quote(database, table)})")})
    known = {name.lower() for name in backed_up}
    said += [
        f"table '{table}' refers to table '{parent}', which is not in the backup: bring it back too"
        for parent in parents
        if parent.lower() not in known
    ]
    return said
