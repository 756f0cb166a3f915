"""Saved views: queries with a name, an owner's own or everyone's."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    ascii_ = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    words = "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_views (
            id {ascii_} NOT NULL PRIMARY KEY,
            owner {ascii_} NOT NULL,
            name {words} NOT NULL,
            query TEXT NOT NULL,
            shared INTEGER NOT NULL,
            created_at {time} NOT NULL
        ) {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""}"""
    )
    if "sytq_views_owner" not in {known.name for known in db.get_indexes("sytq_views")}:
        db.execute_sql("CREATE UNIQUE INDEX sytq_views_owner ON sytq_views (owner, name)")
