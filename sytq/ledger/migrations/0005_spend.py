"""Spend: every call of a provider with its tokens and cost, and what is used of each day's budgets."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    mysql = isinstance(db, peewee.MySQLDatabase)
    name = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    words = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if mysql else "TEXT"
    task = "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    day = "CHAR(10) CHARACTER SET ascii COLLATE ascii_bin" if mysql else "TEXT"
    time = "DATETIME(6)" if mysql else "TEXT"
    table = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if mysql else ""
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_spend (
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
        ) {table}"""
    )
    db.execute_sql(
        f"""CREATE TABLE IF NOT EXISTS sytq_budgets (
            day {day} NOT NULL,
            subject {words} NOT NULL,
            used BIGINT NOT NULL,
            PRIMARY KEY (day, subject)
        ) {table}"""
    )
    indexes = {index.name for index in db.get_indexes("sytq_spend")}
    for columns in (("day", "provider"), ("day", "owner"), ("table_name", "row_id")):
        index = "_".join(("sytq_spend", *columns))
        if index not in indexes:
            db.execute_sql(f"CREATE INDEX {index} ON sytq_spend ({', '.join(columns)})")
