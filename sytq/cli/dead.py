"""`sytq dead`: list, replay and delete dead tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli import task_list
from sytq.cli.bulk import Detach, DryRun, operate
from sytq.cli.options import After, AsJson, File, Limit, Query, open_runtime
from sytq.cli.output import listing
from sytq.ledger.values import iso
from sytq.service import status
from sytq.service.bulk import dead_or_cancelled

app = typer.Typer(no_args_is_help=True)

All = Annotated[bool, typer.Option("--all", help="All dead tasks; required when no query is given.")]


app.command("list")(
    task_list.lister(
        "List dead tasks, latest first.",
        dead_or_cancelled,
        {"id": "id", "type": "type", "attempts": "attempts", "died": "finished_at", "error": "error"},
    )
)


def _offer(name: str, action: str, done: str, help: str) -> None:
    @app.command(name, help=help)
    def command(
        query: Query = "",
        everything: All = False,
        dry_run: DryRun = False,
        detach: Detach = False,
        json_wanted: AsJson = False,
        file: File = None,
    ) -> None:
        if bool(query.strip()) == everything:
            raise typer.BadParameter("give either a query, such as 'type:webhook age:<1h', or --all")
        dead = dead_or_cancelled(query).text
        operate(open_runtime(file), action, dead, done=done, dry_run=dry_run, detach=detach, json_wanted=json_wanted)


_offer(
    "replay",
    "retry",
    "replayed",
    "Run dead tasks again, and print their number. They get a fresh set of attempts; a worker does the work.",
)
_offer(
    "delete",
    "delete",
    "deleted",
    "Delete dead tasks, and print their number. Their attempts and steps are deleted too; a worker does the work.",
)


@app.command()
def unreadable(limit: Limit = 20, after: After = None, json_wanted: AsJson = False, file: File = None) -> None:
    """List undecodable messages and events. They are kept in Redis with their raw bytes."""
    page = open_runtime(file).inspection.unreadable(limit=limit, after=after)
    rows = [
        (item.id, iso(item.at), item.source, item.reason, len(item.raw), repr(item.raw)[2:82]) for item in page.items
    ]
    found = {"messages": status.dead_letters(page.items), "next": page.next}
    listing(json_wanted, found, ("id", "at", "from", "reason", "bytes", "begins with"), rows, page.next)
