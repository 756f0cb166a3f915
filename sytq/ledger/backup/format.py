"""The format of a backup file: lines are counted and hashed when written, and checked when read."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sytq.errors import BackupBroken

FORMAT = 1
#: Called now and then with the rows done, the total of rows, and the current table.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a backup.

    `ddl` are the statements that make it on its engine, itself first (none for tables of sytq, which migrations make).
    """

    name: str
    columns: list[str]
    ddl: list[str]


@dataclass(frozen=True, slots=True)
class Header:
    """A backup's time (RFC 3339), engine, migrations of the core and of plugins, and tables.

    `callers` are the tables that migrations have no say in, `notes` what a restored table lacks or needs. Backups of
    versions before 0.2 have neither these nor `plugins`.
    """

    created_at: str
    engine: str
    migrations: list[str]
    tables: list[Table]
    expected: int
    callers: list[str]
    plugins: dict[str, list[str]]
    notes: list[str]

    @property
    def level(self) -> dict[str, list[str]]:
        """The migrations by plugin, those of the core under ""."""
        return {"": self.migrations, **self.plugins}


@dataclass(frozen=True, slots=True)
class Summary:
    """A complete backup: its header, the number of rows of each table, and the SHA-256 of its lines."""

    header: Header
    rows: dict[str, int]
    sha256: str

    @property
    def total(self) -> int:
        return sum(self.rows.values())


class Writer:
    """Writes one backup; `finish` completes it."""

    def __init__(self, sink: io.BufferedWriter[gzip.GzipFile], header: Header) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()
        self._rows: dict[str, int] = {}
        self._header = header
        self._line({"sytq_backup": FORMAT, **asdict(header)})

    def begin(self, table: str) -> None:
        """Start a table; the next rows are its rows."""
        self._table = table
        self._rows[table] = 0
        self._line({"table": table})

    def row(self, values: Sequence[Any]) -> None:
        """Write one row, in the order of the table's columns."""
        self._line([_plain(value) for value in values])
        self._rows[self._table] += 1

    def finish(self) -> Summary:
        """Write the last line."""
        digest = self._hash.hexdigest()
        self._sink.write(_encode({"end": {"rows": self._rows, "sha256": digest}}))
        return Summary(self._header, self._rows, digest)

    def _line(self, value: Any) -> None:
        line = _encode(value)
        self._hash.update(line)
        self._sink.write(line)


@contextmanager
def create(path: Path, header: Header) -> Iterator[Writer]:
    """A writer of a new file that only its owner can read; flushed to disk when the block ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
            sink = io.BufferedWriter(packed, 1 << 18)
            yield Writer(sink, header)
            sink.flush()
        raw.flush()
        os.fsync(raw.fileno())


def read(path: Path) -> Iterator[Header | tuple[str, list[Any]] | Summary]:
    """Yield the header, each row as (table, values), and last the summary. Raises BackupBroken, OSError.

    Only the summary says that the file is complete: discard the rows without it.
    """
    try:
        yield from _read(path)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, KeyError, TypeError) as error:
        raise BackupBroken(f"{path}: cut off or damaged, or no backup ({type(error).__name__})") from None


def _read(path: Path) -> Iterator[Header | tuple[str, list[Any]] | Summary]:
    digest = hashlib.sha256()
    rows: dict[str, int] = {}
    header: Header | None = None
    summary: Summary | None = None
    table = ""
    with gzip.open(path, "rb") as lines:
        for line in lines:
            value = json.loads(line)
            if summary is not None:
                raise BackupBroken(f"{path}: there is something behind its end")
            if isinstance(value, list):
                rows[table] += 1
                yield table, [_rich(part) for part in value]
            elif "end" in value:
                if header is None or value["end"] != {"rows": rows, "sha256": digest.hexdigest()}:
                    raise BackupBroken(f"{path}: its content is not what was written (checksum)")
                summary = Summary(header, rows, digest.hexdigest())
            elif "table" in value:
                table = value["table"]
                rows[table] = 0
            else:
                header = _header(path, value)
                yield header
            digest.update(line)
    if summary is None:
        raise BackupBroken(f"{path}: cut off, its end is missing")
    yield summary


def check(path: Path) -> Summary:
    """Read a whole backup and return its summary. Raises BackupBroken, OSError."""
    for part in read(path):
        if isinstance(part, Summary):
            return part
    raise AssertionError("unreachable: a file without its end raises")


def _header(path: Path, value: dict[str, Any]) -> Header:
    if value["sytq_backup"] != FORMAT:
        raise BackupBroken(f"{path}: format {value['sytq_backup']} is not known to this version; valid: {FORMAT}")
    tables = [Table(**table) for table in value["tables"]]
    for table in tables:
        table.ddl.sort(key=lambda statement: not statement.startswith("CREATE TABLE"))  # 0.1 began with triggers
    later = value.get("callers", []), value.get("plugins", {}), value.get("notes", [])
    return Header(value["created_at"], value["engine"], value["migrations"], tables, value["expected"], *later)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def _plain(value: Any) -> Any:
    """A value of either database as JSON, times in the ledger's format."""
    if isinstance(value, bytes | bytearray):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dt.datetime):
        return value.isoformat(" ", "microseconds")
    if isinstance(value, dt.date):
        return str(value)
    return value


def _rich(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value
