"""Backups: tables written to a file, and restored into an empty database of either engine.

A file is gzip of JSON lines: a header, each table's rows as arrays after its name, and a last line with the numbers
of rows and the SHA-256 of every line before it. A file without that line is not a backup.
"""

from sytq.ledger.backup.dump import dump
from sytq.ledger.backup.format import Progress, Summary, check

__all__ = ["Progress", "Summary", "check", "dump"]
