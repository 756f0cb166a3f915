"""The ledger: tasks, their attempts, checkpointed steps."""

from typing import Any

import peewee

MYSQL = {
    "id": "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin",
    "name": "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin",
    "step": "VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "text": "LONGTEXT",
    "time": "DATETIME(6)",
    # UTC whatever the inserting session's time zone: any language may insert a task.
    "now": "DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))",
    "table": "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
}
SQLITE = {
    "id": "TEXT",
    "name": "TEXT",
    "step": "TEXT",
    "text": "TEXT",
    "time": "TEXT",
    # Six digits, as all times are written: they are compared as text.
    "now": "TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now'))",
    "table": "",
}

TABLES = (
    """CREATE TABLE IF NOT EXISTS sytq_tasks (
        id {id} NOT NULL PRIMARY KEY,
        type {name} NOT NULL,
        queue {name} NULL,
        priority {name} NULL,
        state {name} NOT NULL DEFAULT 'queued',
        payload {text} NOT NULL,
        result {text} NULL,
        error {text} NULL,
        error_fingerprint {name} NULL,
        progress {text} NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        max_attempts INTEGER NULL,
        token BIGINT NOT NULL DEFAULT 0,
        owner {name} NULL,
        parent {id} NULL,
        worker {name} NULL,
        created_at {now},
        scheduled_at {time} NULL,
        started_at {time} NULL,
        finished_at {time} NULL
    ) {table}""",
    """CREATE TABLE IF NOT EXISTS sytq_attempts (
        task_id {id} NOT NULL,
        token BIGINT NOT NULL,
        attempt INTEGER NOT NULL,
        outcome {name} NOT NULL,
        worker {name} NULL,
        error {text} NULL,
        detail {text} NULL,
        started_at {time} NULL,
        finished_at {time} NULL,
        PRIMARY KEY (task_id, token)
    ) {table}""",
    """CREATE TABLE IF NOT EXISTS sytq_steps (
        task_id {id} NOT NULL,
        name {step} NOT NULL,
        token BIGINT NOT NULL,
        state {name} NOT NULL,
        value {text} NULL,
        detail {text} NULL,
        interrupted INTEGER NOT NULL DEFAULT 0,
        started_at {time} NOT NULL,
        finished_at {time} NULL,
        PRIMARY KEY (task_id, name)
    ) {table}""",
)
INDEXES = (
    ("sytq_tasks", ("state", "id")),
    ("sytq_tasks", ("queue", "state", "id")),
    ("sytq_tasks", ("type", "state", "id")),
    ("sytq_tasks", ("state", "created_at")),
    ("sytq_tasks", ("state", "finished_at")),
    ("sytq_tasks", ("parent",)),
)


def up(migrator: Any, db: peewee.Database) -> None:
    types = MYSQL if isinstance(db, peewee.MySQLDatabase) else SQLITE
    for statement in TABLES:
        db.execute_sql(statement.format(**types))
    for table, columns in INDEXES:
        name = "_".join((table, *columns))
        # MySQL has no IF NOT EXISTS here, and an interrupted migration (DDL commits itself) runs again.
        if name not in {index.name for index in db.get_indexes(table)}:
            db.execute_sql(f"CREATE INDEX {name} ON {table} ({', '.join(columns)})")
