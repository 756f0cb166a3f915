"""The position up to which events are recorded: an older database that was restored is behind that of Redis."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    table = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if isinstance(db, peewee.MySQLDatabase) else ""
    # `sytq_recorded` comes before `sytq_tasks` in a dump: a database that is restored under running workers shows it
    # before it has the older rows.
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_recorded (
            id INTEGER NOT NULL PRIMARY KEY,
            position BIGINT NOT NULL
        ) {table}"""
    )
