"""Options of a submission: metadata, a callback, a unique key; and the request that it came with."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    columns = {
        "metadata": "LONGTEXT" if mysql else "TEXT",
        "callback": "LONGTEXT" if mysql else "TEXT",
        "unique_key": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if mysql else "TEXT",
        "request_id": "VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT",
        "traceparent": "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT",
    }
    there = {column.name for column in db.get_columns("sytq_tasks")}
    for name, kind in columns.items():
        # An interrupted migration (DDL commits itself) runs again.
        if name not in there:
            db.execute_sql(f"ALTER TABLE sytq_tasks ADD COLUMN {name} {kind} NULL")
