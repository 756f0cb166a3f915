"""The tables of `llm`: contract A's table, spend and budgets. Existing tables, such as those made before 0.2, stay."""

from typing import Any

import peewee

MYSQL = {
    "name": "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin",
    "words": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "task": "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin",
    "day": "CHAR(10) CHARACTER SET ascii COLLATE ascii_bin",
    "time": "DATETIME(6)",
    "touched": "TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
    "table": "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
}
SQLITE = {
    **dict.fromkeys(("name", "words", "task", "day", "time"), "TEXT"),
    "touched": "TIMESTAMP DEFAULT CURRENT_TIMESTAMP",
    "table": "",
}

TABLES = (
    """CREATE TABLE IF NOT EXISTS valuation_records (
        id BIGINT PRIMARY KEY,
        status VARCHAR(50),
        user_message TEXT, sys_message TEXT, report TEXT,
        failed_times INT DEFAULT 0, failed_info TEXT,
        progress VARCHAR(50), progress_info TEXT,
        current_task_node INT DEFAULT 0,
        callback_url VARCHAR(255),
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        updated_at {touched}
    ) {table}""",
    """CREATE TABLE IF NOT EXISTS sytq_spend (
        task_id {task} NOT NULL,
        token BIGINT NOT NULL,
        number INTEGER NOT NULL,
        step {words} NOT NULL,
        type {name} NOT NULL,
        owner {name} NULL,
        table_name {name} NULL,
        row_id BIGINT NULL,
        provider {name} NOT NULL,
        model {words} NOT NULL,
        day {day} NOT NULL,
        outcome {name} NOT NULL,
        reserved BIGINT NOT NULL,
        cost BIGINT NULL,
        prompt_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL,
        reasoning_tokens BIGINT NOT NULL,
        began_at {time} NOT NULL,
        ended_at {time} NULL,
        PRIMARY KEY (task_id, token, number)
    ) {table}""",
    """CREATE TABLE IF NOT EXISTS sytq_budgets (
        day {day} NOT NULL,
        subject {words} NOT NULL,
        used BIGINT NOT NULL,
        PRIMARY KEY (day, subject)
    ) {table}""",
)


def up(migrator: Any, db: peewee.Database) -> None:
    types = MYSQL if isinstance(db, peewee.MySQLDatabase) else SQLITE
    for statement in TABLES:
        db.execute_sql(statement.format(**types))
    indexes = {index.name for index in db.get_indexes("sytq_spend")}
    for columns in (("day", "provider"), ("day", "owner"), ("table_name", "row_id")):
        index = "_".join(("sytq_spend", *columns))
        if index not in indexes:
            db.execute_sql(f"CREATE INDEX {index} ON sytq_spend ({', '.join(columns)})")
