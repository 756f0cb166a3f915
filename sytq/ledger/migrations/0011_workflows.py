"""Workflows: the dependencies of tasks, and the rule by which a task is held."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    id_ = "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    if "held" not in {column.name for column in db.get_columns("sytq_tasks")}:
        db.execute_sql(f"ALTER TABLE sytq_tasks ADD COLUMN held {name} NULL")
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_waits (
            task_id {id_} NOT NULL,
            on_id {id_} NOT NULL,
            place INTEGER NOT NULL,
            ended INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (task_id, on_id)
        ) {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""}"""
    )
    there = {index.name for index in db.get_indexes("sytq_waits")}
    for columns in (("on_id",), ("ended", "task_id", "on_id")):
        if (index := "_".join(("sytq_waits", *columns))) not in there:
            db.execute_sql(f"CREATE INDEX {index} ON sytq_waits ({', '.join(columns)})")
