"""Nothing any more: the plugin `llm` makes the tables of spend. The name stays, as databases have it recorded."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    pass
