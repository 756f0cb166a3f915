"""Schedules: the tick last submitted, and pauses, by whom and why."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_schedules (
            name {name} NOT NULL PRIMARY KEY,
            last_tick {time} NOT NULL,
            paused_at {time} NULL,
            paused_by VARCHAR(64) NULL,
            paused_why VARCHAR(255) NULL
        ) {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""}"""
    )
