"""Numbered migrations of our own tables, applied in order by `sytq db migrate`.

Owns how they are run and by whom at once; each file owns one step and is never edited after a release.
"""

from __future__ import annotations

from pathlib import Path

import peewee
from playhouse.migrations import Runner

from sytq.ledger.database import is_mysql, read, transact

_LOCK = "sytq_migrate"


def pending(database: peewee.Database) -> list[str]:
    """Return the names of the migrations that this database still lacks."""
    return read(database, lambda: [m.name for m in _runner(database).status() if m.path and not m.applied])


def migrate(database: peewee.Database) -> list[str]:
    """Apply what is pending and return the names; two at once wait for each other. Raises DatabaseUnavailable."""

    def work() -> list[str]:
        # MySQL commits at every DDL statement, so a transaction would not keep two migrators apart.
        (locked,) = database.execute_sql("SELECT GET_LOCK(%s, 60)", (_LOCK,)).fetchone()
        if locked != 1:
            raise peewee.OperationalError(1205, "another migration holds the lock")
        try:
            return list(_runner(database).up())
        finally:
            database.execute_sql("SELECT RELEASE_LOCK(%s)", (_LOCK,))

    if is_mysql(database):
        return read(database, work)
    return transact(database, lambda: list(_runner(database).up()))


def _runner(database: peewee.Database) -> Runner:
    return Runner(database, directory=str(Path(__file__).parent), table_name="sytq_migrations")
