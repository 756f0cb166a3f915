"""What a command changed, told to the audit.

Owns the form of such an entry: the account that gave the command, what it did, to what. Which commands change something
is theirs to know.
"""

from __future__ import annotations

import typer

from sytq.cli.options import person
from sytq.errors import DatabaseUnavailable
from sytq.ledger.ledger import utcnow
from sytq.runtime import Runtime


def noted(parts: Runtime, what: str, about: str, detail: str | None = None) -> None:
    """Write down what has been done. It is done also when the database is away by now, so that is a warning."""
    try:
        parts.audit.add(utcnow(), person(), what, about, detail or None)
    except DatabaseUnavailable as error:
        typer.echo(f"warning: this is not in the audit: {error}", err=True)
