"""`sytq restore`: bring a backup back into an empty database, or say whether it is whole.

Owns the words and the progress bar. The file's format and the transaction are sytq.ledger.backup.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sytq.cli.options import AsJson, File
from sytq.cli.output import as_json, progress_bar
from sytq.config import load
from sytq.errors import InvalidInput
from sytq.ledger.backup import check
from sytq.ledger.backup import restore as bring_back
from sytq.ledger.database import open_database

#: Seconds that one statement may take here, such as the commit of everything.
_PATIENCE = 600.0


def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="A file that the task type `backup` wrote.")],
    only_check: Annotated[bool, typer.Option("--check", help="Read it whole and write nothing.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Restore a backup into the configured database, which must be empty: everything or nothing."""
    try:
        if only_check:
            summary = check(backup)
        else:
            settings = load(file)
            database = open_database(settings.database_url, pool=2, timeout=_PATIENCE)
            with _bar() as bar:
                shown = bar.add_task("", total=None)
                summary = bring_back(
                    backup,
                    database,
                    lambda done, of, table: bar.update(shown, completed=done, total=of, description=table),
                )
    except OSError as error:
        raise InvalidInput("BACKUP", f"'{backup}' cannot be read: {error.strerror}") from None
    if json_wanted:
        as_json({"created_at": summary.header.created_at, "rows": summary.rows, "sha256": summary.sha256})
        return
    done = "is whole" if only_check else "is restored"
    typer.echo(f"{backup} of {summary.header.created_at} {done}: {summary.total} rows in {len(summary.rows)} tables")


def _bar() -> Progress:
    return progress_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
