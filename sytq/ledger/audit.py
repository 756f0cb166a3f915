"""The audit log: who did what to what, and when. It holds no secrets or payloads.

Times are naive UTC. Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import datetime as dt

import peewee

from sytq.ledger.database import read, transact
from sytq.ledger.models import AuditEntry


def note(at: dt.datetime, who: str, what: str, about: str, detail: str | None = None) -> None:
    """Write one entry inside the caller's transaction, so that both or neither are kept."""
    AuditEntry.insert(at=at, who=who[:64], what=what[:64], about=about[:255], detail=detail).execute()


class Audit:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def add(self, at: dt.datetime, who: str, what: str, about: str, detail: str | None = None) -> None:
        """Write one entry in a transaction of its own."""
        transact(self._database, lambda: note(at, who, what, about, detail))

    def latest(self, limit: int) -> list[AuditEntry]:
        """Return the latest entries, newest first."""
        query = AuditEntry.select().order_by(AuditEntry.id.desc()).limit(limit)
        return read(self._database, lambda: list(query))
