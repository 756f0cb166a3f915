"""Indexes that give every list of tasks in its order, a page at a time."""

from typing import Any

import peewee

#: A list's filter, then its order. The old indexes are prefixes of these, or were unused.
NEW = (
    ("created_at", "id"),
    ("queue", "created_at", "id"),
    *(
        (*asked, "state", moment, "id")
        for asked in ((), ("type",), ("queue",))
        for moment in ("created_at", "finished_at")
    ),
)
OLD = (("queue", "state", "id"), ("type", "state", "id"), ("state", "created_at"), ("state", "finished_at"))


def up(migrator: Any, db: peewee.Database) -> None:
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    there = {index.name for index in db.get_indexes("sytq_tasks")}
    for columns in NEW:
        if (name := "_".join(("sytq_tasks", *columns))) not in there:
            db.execute_sql(f"CREATE INDEX {name} ON sytq_tasks ({', '.join(columns)})")
    for columns in OLD:
        if (name := "_".join(("sytq_tasks", *columns))) in there:
            table = " ON sytq_tasks" if isinstance(db, peewee.MySQLDatabase) else ""
            db.execute_sql(f"DROP INDEX {name}{table}")
