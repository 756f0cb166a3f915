"""Records in the audit log what a command changed."""

from __future__ import annotations

import typer

from sytq.cli.options import person
from sytq.errors import DatabaseUnavailable
from sytq.ledger.audit import Audit
from sytq.ledger.values import utcnow
from sytq.runtime import Runtime


def noted(parts: Runtime, what: str, about: str, detail: str | None = None) -> None:
    """Add an audit entry for a completed change; an unavailable database is therefore only a warning."""
    try:
        Audit(parts.database).add(utcnow(), person(), what, about, detail or None)
    except DatabaseUnavailable as error:
        typer.echo(f"warning: the audit log lacks this change: {error}", err=True)
