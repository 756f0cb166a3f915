"""`sytq restore`: restore a backup into an empty database, or verify the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import peewee
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from sytq.cli.options import AsJson, File, person
from sytq.cli.output import as_json, progress_bar
from sytq.config import load
from sytq.errors import InvalidInput
from sytq.ledger import audit, hold
from sytq.ledger.backup import check
from sytq.ledger.backup.format import Summary
from sytq.ledger.backup.restore import refuse_newer
from sytq.ledger.backup.restore import restore as bring_back
from sytq.ledger.database import open_database, transact
from sytq.ledger.models import MODELS, Task
from sytq.ledger.values import utcnow
from sytq.states import UNFINISHED

#: Seconds for one statement, such as the final commit.
_TIMEOUT = 600.0
_COLUMNS = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="A file written by the task type `backup`.")],
    only_check: Annotated[bool, typer.Option("--check", help="Only verify the file; write nothing.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Restore a backup into the configured database, which must be empty. All of it is restored, or nothing."""
    held = False
    try:
        if only_check:
            summary = check(backup)
            refuse_newer(summary.header)
        else:
            settings = load(file)
            database = open_database(settings.database_url, pool=2, timeout=_TIMEOUT)
            with progress_bar(*_COLUMNS) as bar:
                shown = bar.add_task("", total=None)
                summary = bring_back(
                    backup,
                    database,
                    lambda done, of, table: bar.update(shown, completed=done, total=of, description=table),
                    settings.installed.plugins,
                )
            held = _hold(database, backup, summary)
    except OSError as error:
        raise InvalidInput("BACKUP", f"'{backup}' cannot be read: {error.strerror}") from None
    if json_wanted:
        header = {"created_at": summary.header.created_at, "notes": summary.header.notes}
        as_json(header | {"rows": summary.rows, "sha256": summary.sha256})
        return
    done = "is intact" if only_check else "is restored"
    typer.echo(f"{backup} of {summary.header.created_at} {done}: {summary.total} rows in {len(summary.rows)} tables")
    for note in summary.header.notes:
        typer.echo(f"note: {note}")
    if held:
        typer.echo("held: no task starts before `sytq hold off`; `sytq hold show` says what would run")


def _hold(database: peewee.Database, backup: Path, summary: Summary) -> bool:
    """Note the restoration, and hold the service when there are unfinished tasks: they may have ended since."""

    def work() -> bool:
        audit.note(utcnow(), person(), "ledger.restore", str(backup), f"of {summary.header.created_at}")
        if not Task.select().where(Task.state.in_(UNFINISHED)).exists():
            return False
        return hold.hold(utcnow(), person(), f"a backup of {summary.header.created_at} was restored")

    database.bind(MODELS)
    return transact(database, work)
