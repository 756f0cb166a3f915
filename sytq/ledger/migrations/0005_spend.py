"""Does nothing: the plugin `llm` creates the tables of spend. The name stays, as databases have recorded it."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    pass
