"""The spend of each day, summed once it is over, and the size of a call's prompt. Old processes write neither."""

from typing import Any

import peewee

MYSQL = {
    "name": "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin",
    "words": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "day": "CHAR(10) CHARACTER SET ascii COLLATE ascii_bin",
    "table": "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
}
SQLITE = dict.fromkeys(("name", "words", "day"), "TEXT") | {"table": ""}


def up(migrator: Any, db: peewee.Database) -> None:
    types = MYSQL if isinstance(db, peewee.MySQLDatabase) else SQLITE
    db.execute_sql(
        """CREATE TABLE IF NOT EXISTS sytq_spend_days (
            day {day} NOT NULL,
            provider {name} NOT NULL,
            model {words} NOT NULL,
            type {name} NOT NULL,
            owner {name} NOT NULL,
            calls BIGINT NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            cached_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            reasoning_tokens BIGINT NOT NULL,
            cost BIGINT NOT NULL,
            unknown BIGINT NOT NULL,
            PRIMARY KEY (day, provider, model, type, owner)
        ) {table}""".format(**types)
    )
    if "prompt_bytes" not in {column.name for column in db.get_columns("sytq_spend")}:
        db.execute_sql("ALTER TABLE sytq_spend ADD COLUMN prompt_bytes BIGINT NULL")
