"""Checks the answers of yesterday and today: those of no use for a reason that a setting removes. Calls no provider."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import peewee

from sytq import clock
from sytq.cli.doctor.finding import WARN, Finding
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import read

from .doctor_tables import ledger
from .spend import SpendRow

#: outcome -> the share of a provider's calls from which it is no accident, what happened, what to do
_OUTCOMES = {
    "other_finish_reason": (0.0, "ended with a word that sytq does not know", "the log (finish_reason not accepted)"
                            " names it: say in providers.{name}.finish_reasons what it means"),
    "no_finish_reason": (0.1, "ended without a finish_reason", "if this provider never sends one, set"
                         " providers.{name}.finish_reasons to {{none: stop}}; else its streams break off"),
    "length": (0.1, "were cut, and paid for again with more room", "raise max_tokens of providers.{name} or its model"),
}  # fmt: skip


def answers(settings: Settings) -> Iterator[Finding]:
    """A warning for each such reason and provider; nothing where there is none."""
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
