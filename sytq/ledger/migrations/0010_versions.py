"""The payload version in which a task was accepted; NULL (rows of other languages) is the current version."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    if "version" not in {column.name for column in db.get_columns("sytq_tasks")}:
        db.execute_sql("ALTER TABLE sytq_tasks ADD COLUMN version INTEGER NULL")
