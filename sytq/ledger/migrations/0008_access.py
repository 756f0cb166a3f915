"""Access: API keys (hashes only), the audit log, and the answers of Idempotency-Keys."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    ascii_ = "CHARACTER SET ascii COLLATE ascii_bin"
    name = f"VARCHAR(64) {ascii_}" if mysql else "TEXT"
    words = f"VARCHAR(1000) {ascii_}" if mysql else "TEXT"
    key = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if mysql else "TEXT"
    text = "LONGTEXT" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    serial = "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY" if mysql else "INTEGER PRIMARY KEY"
    table = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_api_keys (
            id {name} NOT NULL PRIMARY KEY,
            name VARCHAR(64) NOT NULL,
            owner {name} NOT NULL,
            secret {name} NOT NULL,
            previous {name} NULL,
            previous_until {time} NULL,
            scopes {words} NOT NULL,
            types {words} NULL,
            rate_calls INTEGER NULL,
            rate_seconds INTEGER NULL,
            daily_tasks INTEGER NULL,
            created_at {time} NOT NULL,
            expires_at {time} NULL,
            revoked_at {time} NULL,
            last_used_at {time} NULL
        ) {table}"""
    )
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_audit (
            id {serial},
            at {time} NOT NULL,
            who VARCHAR(64) NOT NULL,
            what VARCHAR(64) NOT NULL,
            about {key} NOT NULL,
            detail {text} NULL
        ) {table}"""
    )
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_idempotency (
            owner {name} NOT NULL,
            idempotency_key {key} NOT NULL,
            fingerprint {name} NOT NULL,
            answer {text} NOT NULL,
            created_at {time} NOT NULL,
            PRIMARY KEY (owner, idempotency_key)
        ) {table}"""
    )
    for index_of, column in (("sytq_idempotency", "created_at"), ("sytq_audit", "at")):
        index = f"{index_of}_{column}"
        if index not in {known.name for known in db.get_indexes(index_of)}:
            db.execute_sql(f"CREATE INDEX {index} ON {index_of} ({column})")
