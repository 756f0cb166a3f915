"""Inserting a backup's rows: many in one statement, and rows that no such statement can carry alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import peewee

from sytq.errors import BackupBroken
from sytq.ledger.backup.format import Table
from sytq.ledger.backup.tables import columns, quote, run
from sytq.ledger.database import execute_many, is_mysql

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = 8  # bytes at most of one character in a statement: four, each escaped


class Insert:
    """Inserts rows into one table; values that the table computes itself are left out."""

    def __init__(self, database: peewee.Database, table: Table) -> None:
        self._database, self._table = database, table.name
        generated = {column.name.lower() for column in columns(database, table.name) if column.generated}
        self._kept = [place for place, name in enumerate(table.columns) if name.lower() not in generated]
        names = ", ".join(quote(database, table.columns[place]) for place in self._kept)
        self._mark = "?"
        self._start = f"INSERT INTO {quote(database, table.name)} ({names}) VALUES "
        if is_mysql(database):
            self._mark = "%s"
            self._start = self._start.replace("%", "%%")
            self._limit = int(run(database, "SELECT @@max_allowed_packet").fetchone()[0])

    def __call__(self, rows: Sequence[Sequence[Any]]) -> int:
        """Insert the rows and return their number. Raises BackupBroken and Peewee's errors."""
        plain = []
        for whole in rows:
            row = [whole[place] for place in self._kept]
            if is_mysql(self._database) and _size(row) * _ESCAPED > self._limit:
                self._insert([row], list(self._in_pieces(row)))
            elif not is_mysql(self._database) and any(map(_is_no_utf8, row)):
                marks = ["CAST(? AS TEXT)" if _is_no_utf8(value) else "?" for value in row]
                raw = [value.encode("utf-8", "surrogateescape") if _is_no_utf8(value) else value for value in row]
                self._insert([raw], marks)
            else:
                plain.append(row)
        self._insert(plain, [self._mark] * len(self._kept))
        return len(rows)

    def _insert(self, rows: list[list[Any]], marks: list[str]) -> None:
        execute_many(self._database, f"{self._start}({', '.join(marks)})", rows)

    def _in_pieces(self, row: list[Any]) -> Iterator[str]:
        """Put the long values of a row, which would exceed `max_allowed_packet`, into variables piece by piece.

        Yields what stands for each value in the INSERT, and leaves only the others in `row`.
        """
        piece = self._limit // (2 * _ESCAPED)
        others = []
        for place, value in enumerate(row):
            if not isinstance(value, str | bytes) or len(value) * _ESCAPED * 4 < self._limit:
                others.append(value)
                yield self._mark
                continue
            if (size := len(value.encode() if isinstance(value, str) else value)) >= self._limit:
                raise BackupBroken(
                    f"table '{self._table}' has a value of {size} bytes: raise the server's max_allowed_packet "
                    f"({self._limit}) above that, then restore again"
                )
            variable = f"@sytq_{place}"
            self._database.execute_sql(f"SET {variable} = %s", (value[:piece],))
            for start in range(piece, len(value), piece):
                part = value[start : start + piece]
                self._database.execute_sql(f"SET {variable} = CONCAT({variable}, %s)", (part,))
            yield variable
        row[:] = others


def _size(row: list[Any]) -> int:
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def _is_no_utf8(value: Any) -> bool:
    return isinstance(value, str) and not value.isascii() and _SURROGATE.search(value) is not None
