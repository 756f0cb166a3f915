"""`sytq db`: bring the configured database's tables to this version, or say whether they are.

Owns the words. The migrations themselves are sytq.migrations.
"""

from __future__ import annotations

from typing import Annotated

import peewee
import typer

from sytq.config import load
from sytq.db import open_database
from sytq.migrations import migrate as apply
from sytq.migrations import pending

app = typer.Typer(no_args_is_help=True)

File = Annotated[
    str | None, typer.Option("--file", "-f", help="The YAML file; default: the one that SYTQ_CONFIG names.")
]


@app.command()
def migrate(file: File = None) -> None:
    """Apply the migrations that the database lacks; two at once wait for each other."""
    applied = apply(_database(file))
    typer.echo(f"applied: {', '.join(applied)}" if applied else "nothing to do: the database is up to date")


@app.command()
def check(file: File = None) -> None:
    """Exit 0 when the database is up to date, 1 with what it lacks when not."""
    missing = pending(_database(file))
    if missing:
        typer.echo(f"pending: {', '.join(missing)} (run `sytq db migrate`)", err=True)
        raise typer.Exit(1)
    typer.echo("the database is up to date")


def _database(file: str | None) -> peewee.Database:
    settings = load(file)
    return open_database(settings.database_url, pool=1, timeout=settings.database.timeout)
