"""The ledger's half of the pair: its identity, and which Redis serves it."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Any

import peewee

from sytq.ledger.database import execute, insert_ignore, is_mysql, read, transact
from sytq.pairing import Half, Partner

_COLUMNS = "id, beat, redis, place, worker, seen_at, other, other_place, other_worker, other_at"


class LedgerHalf:
    """Reads and writes the one row of `sytq_ledger`. Every method raises DatabaseUnavailable."""

    def __init__(self, database: peewee.Database, place: str) -> None:
        self.place = place
        self._database = database
        self._now = "UTC_TIMESTAMP(6)" if is_mysql(database) else "strftime('%Y-%m-%d %H:%M:%f', 'now')"

    def read(self) -> Half | None:
        """None before the migration, or before the first worker."""
        query = f"SELECT {_COLUMNS}, {self._now} FROM sytq_ledger WHERE one = 1"  # noqa: S608
        row = self._row(query)
        if row is None:
            return None
        own, beat, *partners, now = row
        return Half(own, beat, _partner(partners[:4], now), _partner(partners[4:], now))

    def salt(self) -> bytes | None:
        """The key for hashes of secrets, which nothing but the database knows."""
        row = self._row("SELECT salt FROM sytq_ledger WHERE one = 1")
        return row[0].encode() if row else None

    def make(self) -> Half | None:
        """The half, made if missing; None before the migration."""
        there = self.read()
        if there is not None or not read(self._database, lambda: self._database.table_exists("sytq_ledger")):
            return there
        new: dict[str, list[object]] = {
            "one": [1],
            "id": [secrets.token_hex(16)],
            "salt": [secrets.token_hex(16)],
            "beat": [0],
        }
        transact(self._database, lambda: insert_ignore(self._database, "sytq_ledger", new))
        return self.read()

    def claim(self, there: Half, redis: str, place: str, worker: str, beat: int) -> bool:
        """Say that this Redis serves the ledger, unless another worker has written since `there` was read."""
        values = f"redis = ?, place = ?, worker = ?, beat = ?, seen_at = {self._now}"
        sql = f"UPDATE sytq_ledger SET {values} WHERE one = 1 AND id = ? AND beat = ?"  # noqa: S608
        return self._write(sql, redis, place, worker, beat, there.id, there.beat) == 1

    def touch(self, redis: str) -> None:
        """Say that workers of this Redis are alive while it does not answer them."""
        sql = f"UPDATE sytq_ledger SET seen_at = {self._now} WHERE one = 1 AND redis = ?"  # noqa: S608
        self._write(sql, redis)

    def refuse(self, redis: str, place: str, worker: str) -> None:
        """Remember a refused Redis, so that the workers of the serving one can name it."""
        other = f"other = ?, other_place = ?, other_worker = ?, other_at = {self._now}"
        self._write(f"UPDATE sytq_ledger SET {other} WHERE one = 1", redis, place, worker)  # noqa: S608

    def _row(self, query: str) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = read(self._database, lambda: self._database.execute_sql(query).fetchone())
            return found
        except (peewee.ProgrammingError, peewee.OperationalError):  # no such table
            return None

    def _write(self, sql: str, *values: object) -> int:
        return transact(self._database, lambda: int(execute(self._database, sql, *values).rowcount))


def _partner(columns: list[Any], now: Any) -> Partner | None:
    own, place, worker, at = columns
    if own is None:
        return None
    return Partner(own, place, worker, str(at), (_moment(now) - _moment(at)).total_seconds())


def _moment(value: Any) -> dt.datetime:
    return value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)
