"""The table of hosts that only fail. An existing table, such as one made before 0.2, stays."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    host = "VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_failing_hosts (
            host {host} NOT NULL PRIMARY KEY,
            since {time} NOT NULL
        ) {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""}"""
    )
