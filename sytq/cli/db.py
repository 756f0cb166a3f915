"""`sytq db`: apply database migrations, or check whether any are pending."""

from __future__ import annotations

from collections.abc import Sequence

import peewee
import typer

from sytq.cli.options import AsJson, File, person
from sytq.cli.output import as_json, report
from sytq.config import load
from sytq.ledger import audit
from sytq.ledger.database import open_database, transact
from sytq.ledger.hold import hold
from sytq.ledger.migrations import migrate as apply
from sytq.ledger.migrations import pending
from sytq.ledger.models import MODELS
from sytq.ledger.values import utcnow
from sytq.plugins import Plugin

app = typer.Typer(no_args_is_help=True)


@app.command()
def migrate(json_wanted: AsJson = False, file: File = None) -> None:
    """Apply all pending migrations, and make lost tables anew, empty. Concurrent runs wait for each other."""
    database, plugins = _database(file)
    applied = apply(database, plugins)
    said = f"applied: {', '.join(applied)}" if applied else "nothing to do: the database is up to date"
    report(json_wanted, {"applied": applied}, said)
    if anew := [name for name in applied if name.startswith("table ")]:
        _hold(database, anew)
        typer.echo("held: no task starts before `sytq hold off`; docs/runbook.md says what each table had", err=True)


@app.command()
def check(json_wanted: AsJson = False, file: File = None) -> None:
    """Check for pending migrations. Exits 0 when the database is up to date, 1 otherwise."""
    missing = pending(*_database(file))
    if json_wanted:
        as_json({"pending": missing})
    elif missing:
        typer.echo(f"pending: {', '.join(missing)} (run `sytq db migrate`)", err=True)
    else:
        typer.echo("the database is up to date")
    raise typer.Exit(1 if missing else 0)


def _hold(database: peewee.Database, anew: Sequence[str]) -> None:
    """Hold the service, and say so in the audit log: what the tables had is lost."""

    def work() -> None:
        for name in anew:
            audit.note(utcnow(), person(), "ledger.table_made_anew", name.removeprefix("table "))
        hold(utcnow(), person(), f"lost, and made anew without rows: {', '.join(anew)}")

    with database.bind_ctx(MODELS):
        transact(database, work)


def _database(file: str | None) -> tuple[peewee.Database, Sequence[Plugin]]:
    settings = load(file)
    database = open_database(settings.database_url, pool=1, timeout=settings.database.timeout)
    return database, settings.installed.plugins
