"""Checks what the database has: the callers' tables, and the answers of yesterday and today. Creates no SQLite file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import peewee

from sytq import clock
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import open_database, read

from .config import LlmSettings
from .obstacles import obstacles
from .spend import SpendRow

_TIMEOUT = 2.0
#: outcome -> the share of a provider's calls from which it is no accident, what happened, what to do
_OUTCOMES = {
    "other_finish_reason": (0.0, "ended with a word that sytq does not know", "the log (finish_reason not accepted)"
                            " names it: say in providers.{name}.finish_reasons what it means"),
    "no_finish_reason": (0.1, "ended without a finish_reason", "if this provider never sends one, set"
                         " providers.{name}.finish_reasons to {{none: stop}}; else its streams break off"),
    "length": (0.1, "were cut, and paid for again with more room", "raise max_tokens of providers.{name} or its model"),
}  # fmt: skip


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


def answers(settings: Settings) -> Iterator[Finding]:
    """A warning for each provider and reason of answers without use that a setting removes. Calls no provider."""
    database = ledger(settings)
    if database is None:
        return
    since = (clock.utc() - dt.timedelta(days=1)).date().isoformat()
    count = peewee.fn.COUNT(SpendRow.number)

    def work() -> list[tuple[str, str, int]]:
        calls = SpendRow.select(SpendRow.provider, SpendRow.outcome, count).where(SpendRow.day >= since)
        rows: Any = calls.group_by(SpendRow.provider, SpendRow.outcome).tuples()
        return list(rows)

    try:
        with database.bind_ctx([SpendRow]):
            found = read(database, work)
    except (DatabaseUnavailable, peewee.PeeweeException):
        return  # the check of the database says so
    for provider, outcome, calls in sorted(found):
        total = sum(number for name, _, number in found if name == provider)
        share, said, todo = _OUTCOMES.get(outcome, (2.0, "", ""))
        if calls > share * total:
            said = f"{calls} of {total} answers since {since} {said} [{outcome}]"
            yield Finding(f"answers of {provider}", WARN, said, todo.format(name=provider))
