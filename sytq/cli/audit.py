"""`sytq audit`: the latest entries of the audit log."""

from __future__ import annotations

from sytq.cli.options import AsJson, File, Limit, open_runtime
from sytq.cli.output import listing
from sytq.ledger.audit import Audit
from sytq.ledger.values import iso


def audit(limit: Limit = 100, json_wanted: AsJson = False, file: File = None) -> None:
    """Show who changed what, latest first."""
    rows = Audit(open_runtime(file).database).latest(limit)
    columns = ("at", "who", "what", "about", "detail")
    found = [(iso(row.at), row.who, row.what, row.about, row.detail) for row in rows]
    entries = [dict(zip(columns, entry, strict=True)) for entry in found]
    listing(json_wanted, {"entries": entries, "next": None}, columns, found)
