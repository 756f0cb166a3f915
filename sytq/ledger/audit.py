"""The audit log: who did what to what, and when. It holds no secrets or payloads.

Times are naive UTC. Every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import datetime as dt
import operator
from dataclasses import dataclass
from functools import reduce

import peewee

from sytq.config.masking import mask_text
from sytq.errors import InvalidInput
from sytq.ledger.database import read, transact
from sytq.ledger.models import AuditEntry
from sytq.ledger.query.fields import read_moment
from sytq.ledger.values import utcnow

#: Entries that one page reads at most: what matches rarely is found page by page, each in little time.
_SLICE = 20_000
#: Processes write entries at the same time: the order of ids is that of times but for so many.
_DISORDER = 1_000


def note(at: dt.datetime, who: str, what: str, about: str, detail: str | None = None) -> None:
    """Write one entry inside the caller's transaction, so that both or neither are kept."""
    said = None if detail is None else mask_text(detail)  # a query may name a secret
    AuditEntry.insert(at=at, who=who[:64], what=what[:64], about=about[:255], detail=said).execute()


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Entries that contain these texts, in a period; empty texts match everything."""

    who: str = ""
    what: str = ""
    about: str = ""
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    @property
    def condition(self) -> peewee.Expression:
        texts = (AuditEntry.who, self.who), (AuditEntry.what, self.what), (AuditEntry.about, self.about)
        found = [column.contains(text) for column, text in texts if text]
        found += [AuditEntry.at >= self.since] if self.since else []
        found += [AuditEntry.at < self.until] if self.until else []
        return reduce(operator.and_, found, AuditEntry.id.is_null(False))


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first; with `next` there may be older ones before that id, and this page has looked up to
    `looked_back_to`."""

    entries: list[AuditEntry]
    next: int | None
    looked_back_to: dt.datetime | None


class Audit:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def add(self, at: dt.datetime, who: str, what: str, about: str, detail: str | None = None) -> None:
        """Write one entry in a transaction of its own."""
        transact(self._database, lambda: note(at, who, what, about, detail))

    def latest(self, limit: int, wanted: AuditFilter | None = None) -> list[AuditEntry]:
        """Return the latest matching entries, newest first, however far back they are."""
        found: list[AuditEntry] = []
        before: int | None = None
        while len(found) < limit:
            page = self.page(wanted or AuditFilter(), limit=limit - len(found), before=before)
            found += page.entries
            if page.next is None:
                break
            before = page.next
        return found

    def page(self, wanted: AuditFilter, *, limit: int, before: int | None = None) -> AuditPage:
        """Return matching entries with ids below `before`; a page reads a bounded number of entries."""
        return read(self._database, lambda: _page(wanted, limit, before))


def _page(wanted: AuditFilter, limit: int, before: int | None) -> AuditPage:
    ids = AuditEntry.select(AuditEntry.id)
    if wanted.since:
        first = ids.where(AuditEntry.at >= wanted.since).order_by(AuditEntry.at).first()
    else:
        first = ids.order_by(AuditEntry.id).first()
    if wanted.until:
        last = ids.where(AuditEntry.at < wanted.until).order_by(AuditEntry.at.desc()).first()
    else:
        last = ids.order_by(AuditEntry.id.desc()).first()
    if first is None or last is None:
        return AuditPage([], None, None)
    bottom = max(1, first.id - (_DISORDER if wanted.since else 0))
    top = last.id + (_DISORDER if wanted.until else 0)
    if before is not None:
        top = min(top, before - 1)
    low = max(bottom, top - _SLICE + 1)
    inside = AuditEntry.id.between(low, top)
    found = list(AuditEntry.select().where(inside, wanted.condition).order_by(AuditEntry.id.desc()).limit(limit + 1))
    if len(found) > limit:
        return AuditPage(found[:limit], found[limit - 1].id, found[limit - 1].at)
    if low == bottom:
        return AuditPage(found, None, None)
    lowest = AuditEntry.select(AuditEntry.at).where(AuditEntry.id >= low).order_by(AuditEntry.id).first()
    return AuditPage(found, low, lowest and lowest.at)


def read_period(name: str, text: str) -> dt.datetime | None:
    """A limit of a period: a time, a day, or a duration back from now; None for no text. Raises InvalidInput."""
    if not text:
        return None
    try:
        moment = read_moment(name, text)
    except ValueError as error:
        raise InvalidInput(name, str(error)) from None
    if isinstance(moment, dt.timedelta):
        return utcnow() - moment
    return moment if isinstance(moment, dt.datetime) else dt.datetime.combine(moment, dt.time())
