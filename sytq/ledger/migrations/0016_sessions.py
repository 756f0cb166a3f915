"""Sessions of the dashboard: hashes of their tokens, and whose they are."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    text = "VARCHAR(200)" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_sessions (
            id {name} NOT NULL PRIMARY KEY,
            user_name {name} NULL,
            key_id {name} NULL,
            fingerprint {name} NOT NULL,
            address {name} NULL,
            agent {text} NULL,
            created_at {time} NOT NULL,
            used_at {time} NOT NULL,
            expires_at {time} NOT NULL
        ) {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""}"""
    )
    if "sytq_sessions_expires_at" not in {known.name for known in db.get_indexes("sytq_sessions")}:
        db.execute_sql("CREATE INDEX sytq_sessions_expires_at ON sytq_sessions (expires_at)")
