"""Figures of periods, which charts read, and failures by cause: both are kept from the tasks by a loop."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    task = "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    real = "DOUBLE" if mysql else "REAL"
    table = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_figures (
            span INTEGER NOT NULL,
            since BIGINT NOT NULL,
            owner {name} NOT NULL,
            type {name} NOT NULL,
            queue {name} NOT NULL,
            priority {name} NOT NULL,
            accepted BIGINT NOT NULL,
            succeeded BIGINT NOT NULL,
            dead BIGINT NOT NULL,
            cancelled BIGINT NOT NULL,
            retries BIGINT NOT NULL,
            ran BIGINT NOT NULL,
            waiting_seconds {real} NOT NULL,
            running_seconds {real} NOT NULL,
            PRIMARY KEY (span, since, owner, type, queue, priority)
        ) {table}"""
    )
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_failures (
            since BIGINT NOT NULL,
            owner {name} NOT NULL,
            type {name} NOT NULL,
            fingerprint {name} NOT NULL,
            tasks BIGINT NOT NULL,
            first_at {time} NOT NULL,
            last_at {time} NOT NULL,
            sample {task} NOT NULL,
            PRIMARY KEY (since, owner, type, fingerprint)
        ) {table}"""
    )
