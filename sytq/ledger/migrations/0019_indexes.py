"""Removes indexes of tasks that no query of a person needs; each of them was written again at every change of state."""

from typing import Any

import peewee

#: By state and id the reconciler looked; it goes by state and time now. The ended tasks of a queue or a host are read
#: from those of the state.
OLD = (("state", "id"), ("queue", "state", "finished_at", "id"), ("host", "state", "finished_at", "id"))


def up(migrator: Any, db: peewee.Database) -> None:
    there = {index.name for index in db.get_indexes("sytq_tasks")}
    for columns in OLD:
        # In MySQL an interrupted migration (DDL commits itself) runs again.
        if (name := "_".join(("sytq_tasks", *columns))) in there:
            table = " ON sytq_tasks" if isinstance(db, peewee.MySQLDatabase) else ""
            db.execute_sql(f"DROP INDEX {name}{table}")
