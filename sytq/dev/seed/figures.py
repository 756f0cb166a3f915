"""Figures of made-up history: its times are past, so the loop that counts would not look there."""

from __future__ import annotations

import peewee

from sytq.ledger.database import transact
from sytq.ledger.failures import FailureRollup
from sytq.ledger.models import Figure
from sytq.ledger.rollup import Rollup


def count(database: peewee.Database) -> None:
    """Count the last week anew."""
    for rollup in (Rollup(database, whole=True), FailureRollup(database)):
        while rollup.advance():
            pass


def forget(database: peewee.Database) -> None:
    """Delete all figures, of which made-up tasks are a part, and count what is left."""
    transact(database, Figure.delete().execute)
    count(database)
