"""The version of its type's payload in which a task was accepted; NULL (rows of other languages) is the present one."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    # A migration that was cut off half-way (MySQL commits DDL by itself) runs again.
    if "version" not in {column.name for column in db.get_columns("sytq_tasks")}:
        db.execute_sql("ALTER TABLE sytq_tasks ADD COLUMN version INTEGER NULL")
