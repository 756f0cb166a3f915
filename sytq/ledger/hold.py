"""The hold, by which no task starts until an operator has looked, and the position by which a database shows its age.

The hold is the row of `sytq_pauses` that stands for every type. The position is the time (Unix ms) of the last recorded
event: the recorder writes it with the events, and to Redis once they are committed. A database whose position is below
that of Redis was set back: an older dump was restored, or a failover lost its last transactions.

Must not begin a transaction.
"""

from __future__ import annotations

import datetime as dt

import peewee

from sytq.ledger import audit
from sytq.ledger.database import execute, insert_ignore
from sytq.ledger.models import Pause, Recorded

#: In place of a type's name; no type can have it.
EVERY_TYPE = "*"
_ROW = 1


class SetBack(Exception):
    """The database is older than what Redis knows to be recorded."""


def held() -> Pause | None:
    """Return the hold: since when, by whom and why."""
    found: Pause | None = Pause.get_or_none(Pause.type == EVERY_TYPE)
    return found


def hold(at: dt.datetime, by: str, why: str) -> bool:
    """Begin a hold; False when there is one, which stays as it is."""
    if held() is not None:
        return False
    row = {"type": EVERY_TYPE, "paused_at": at, "paused_by": by[:64], "paused_why": why[:255]}
    Pause.insert(row).on_conflict_ignore().execute()
    audit.note(at, by, "service.hold", EVERY_TYPE, why)
    return True


def end(at: dt.datetime, by: str, detail: str) -> bool:
    """End the hold; False when there is none."""
    if not Pause.delete().where(Pause.type == EVERY_TYPE).execute():
        return False
    audit.note(at, by, "service.release", EVERY_TYPE, detail)
    return True


def position() -> int:
    """Return the position; 0 before the first event, and of a database whose position was lost."""
    row = Recorded.get_or_none(Recorded.id == _ROW)
    return 0 if row is None else int(row.position)


def advance(database: peewee.Database, known: int, to: int) -> None:
    """Raise the position, which Redis says is `known` or above. Raises SetBack when it is not."""
    higher = "CASE WHEN position < ? THEN ? ELSE position END"
    sql = f"UPDATE sytq_recorded SET position = {higher} WHERE id = {_ROW} AND position >= ?"  # noqa: S608
    if execute(database, sql, to, to, known).rowcount == 0:
        if known:
            raise SetBack
        set_position(database, to)


def set_position(database: peewee.Database, to: int, *, lower: bool = False) -> None:
    """Raise the position, also of a database that was set back, or lower it."""
    insert_ignore(database, "sytq_recorded", {"id": [_ROW], "position": [0]})
    changes = Recorded.position > to if lower else Recorded.position < to
    Recorded.update(position=to).where(Recorded.id == _ROW, changes).execute()
