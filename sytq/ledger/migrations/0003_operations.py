"""Paused types, and unique keys of unfinished tasks."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    key = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if mysql else "TEXT"
    task = "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    table = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_pauses (
            type {name} NOT NULL PRIMARY KEY,
            paused_at {time} NOT NULL,
            paused_by VARCHAR(64) NOT NULL,
            paused_why VARCHAR(255) NOT NULL
        ) {table}"""
    )
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_unique (
            unique_key {key} NOT NULL PRIMARY KEY,
            task_id {task} NOT NULL
        ) {table}"""
    )
    if "revived_at" not in {column.name for column in db.get_columns("sytq_tasks")}:
        db.execute_sql(f"ALTER TABLE sytq_tasks ADD COLUMN revived_at {time} NULL")
    if "sytq_unique_task_id" not in {index.name for index in db.get_indexes("sytq_unique")}:
        db.execute_sql("CREATE INDEX sytq_unique_task_id ON sytq_unique (task_id)")
