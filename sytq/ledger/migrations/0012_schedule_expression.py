"""The expression under which a schedule last ran: a changed one has no past."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    if "expression" not in {column.name for column in db.get_columns("sytq_schedules")}:
        db.execute_sql("ALTER TABLE sytq_schedules ADD COLUMN expression TEXT NULL")
