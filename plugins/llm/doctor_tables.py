"""Checks the callers' tables: what of them stands in the way of valuations and prompts. Creates no SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import peewee

from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import open_database

from .config import LlmSettings
from .obstacles import obstacles

_TIMEOUT = 2.0


def ledger(settings: Settings) -> peewee.Database | None:
    """The database; None without its SQLite file, which the check of the database reports."""
    parts = urlsplit(settings.database_url)
    if parts.scheme == "sqlite" and not Path(unquote(parts.path[1:])).exists():
        return None
    return open_database(settings.database_url, pool=1, timeout=_TIMEOUT)


def tables(settings: Settings) -> Iterator[Finding]:
    """What stands in the way in each table of `llm.tables`."""
    llm = settings.of(LlmSettings).llm
    database = ledger(settings)
    if database is None:
        return
    for table in llm.tables:
        check = f"table {table}"
        try:
            found = obstacles(database, table, llm.status_labels)
        except (DatabaseUnavailable, peewee.PeeweeException):
            yield Finding(check, WARN, "unknown while the database is unavailable", "see the check of the database")
            return
        if not found:
            yield Finding(check, OK, "rows can be read and written")
        for obstacle in found:
            yield Finding(check, FAIL if obstacle.stops else WARN, obstacle.said, obstacle.todo)
