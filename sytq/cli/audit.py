"""`sytq audit`: the entries of the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.options import AsJson, File, Limit, open_runtime
from sytq.cli.output import listing
from sytq.ledger.audit import Audit, AuditFilter, read_period
from sytq.ledger.values import iso

_PERIOD = "a time, a day (UTC), or a duration before now"


def audit(
    who: Annotated[str, typer.Option("--who", help="Only entries of a person or key whose name contains this.")] = "",
    what: Annotated[str, typer.Option("--what", help="Only actions that contain this, such as key.")] = "",
    about: Annotated[str, typer.Option("--about", help="Only entries about something that contains this.")] = "",
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help=f"Not before: {_PERIOD}.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="WHEN", help=f"Before: {_PERIOD}.")] = "",
    limit: Limit = 100,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show who changed what, latest first."""
    wanted = AuditFilter(who, what, about, read_period("since", since), read_period("until", until))
    rows = Audit(open_runtime(file).database).latest(limit, wanted)
    columns = ("at", "who", "what", "about", "detail")
    found = [(iso(row.at), row.who, row.what, row.about, row.detail) for row in rows]
    entries = [dict(zip(columns, entry, strict=True)) for entry in found]
    listing(json_wanted, {"entries": entries, "next": None}, columns, found)
