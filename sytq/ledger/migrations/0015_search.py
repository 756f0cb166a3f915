"""The search index: what tasks are found by (owner, metadata, declared payload fields), and how far it goes."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    text = "VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if mysql else "TEXT"
    id_ = "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    table = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_search (
            name {text} NOT NULL,
            value {text} NOT NULL,
            moment {time} NOT NULL,
            task_id {id_} NOT NULL,
            PRIMARY KEY (name, value, moment, task_id)
        ) {table if mysql else "WITHOUT ROWID"}"""
    )
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_search_progress (
            name {text} NOT NULL PRIMARY KEY,
            moment VARCHAR(32) NULL,
            task_id {id_} NULL,
            declared_at {time} NULL
        ) {table}"""
    )
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    if "sytq_search_task_id" not in {index.name for index in db.get_indexes("sytq_search")}:
        db.execute_sql("CREATE INDEX sytq_search_task_id ON sytq_search (task_id)")
