"""The ledger's identity, and the Redis that serves it: one row, which the first worker writes."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    text = "VARCHAR(500)" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_ledger (
            one INTEGER NOT NULL PRIMARY KEY,
            id {name} NOT NULL,
            salt {name} NOT NULL,
            beat BIGINT NOT NULL,
            redis {name} NULL,
            place {text} NULL,
            worker {text} NULL,
            seen_at {time} NULL,
            other {name} NULL,
            other_place {text} NULL,
            other_worker {text} NULL,
            other_at {time} NULL
        ) {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""}"""
    )
