"""Of the tasks of a type or queue by time of creation no index has the state: such a one is written at every change of
state. `type, created_at, id` takes the place of one that had it; the queue has its own since 0004."""

from typing import Any

import peewee

OLD = ("type_state_created_at_id", "queue_state_created_at_id")


def up(migrator: Any, db: peewee.Database) -> None:
    # In MySQL an interrupted migration (DDL commits itself) runs again.
    there = {index.name for index in db.get_indexes("sytq_tasks")}
    if "sytq_tasks_type_created_at_id" not in there:
        db.execute_sql("CREATE INDEX sytq_tasks_type_created_at_id ON sytq_tasks (type, created_at, id)")
    table = " ON sytq_tasks" if isinstance(db, peewee.MySQLDatabase) else ""
    for name in OLD:
        if f"sytq_tasks_{name}" in there:
            db.execute_sql(f"DROP INDEX sytq_tasks_{name}{table}")
