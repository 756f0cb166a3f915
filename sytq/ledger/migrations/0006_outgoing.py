"""Outgoing calls: hosts, HTTP statuses, the next attempt; ordering keys."""

from typing import Any

import peewee

COLUMNS = (
    ("sytq_tasks", "host", "name"),
    ("sytq_tasks", "ordering_key", "key"),
    ("sytq_attempts", "status", "number"),
    ("sytq_attempts", "next_at", "time"),
)
INDEXES = (
    ("sytq_tasks_host_state_finished_at_id", "sytq_tasks", "host, state, finished_at, id"),
    ("sytq_tasks_ordering_key_created_at_id", "sytq_tasks", "ordering_key, created_at, id"),
)
MYSQL = {
    "name": "VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin",
    "key": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "number": "INTEGER",
    "time": "DATETIME(6)",
}
SQLITE = {"name": "TEXT", "key": "TEXT", "number": "INTEGER", "time": "TEXT"}


def up(migrator: Any, db: peewee.Database) -> None:
    types = MYSQL if isinstance(db, peewee.MySQLDatabase) else SQLITE
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    for table, column, kind in COLUMNS:
        if column not in {known.name for known in db.get_columns(table)}:
            db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column} {types[kind]} NULL")
    for name, table, columns in INDEXES:
        if name not in {index.name for index in db.get_indexes(table)}:
            db.execute_sql(f"CREATE INDEX {name} ON {table} ({columns})")
