"""`sytq session`: list and end the sessions of the dashboard."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.options import AsJson, File, Limit, open_runtime, person
from sytq.cli.output import listing, report
from sytq.ledger.sessions import SHOWN, Sessions
from sytq.ledger.values import iso

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(limit: Limit = 100, json_wanted: AsJson = False, file: File = None) -> None:
    """List who is logged in to the dashboard, the last used session first."""
    columns = ("id", "who", "address", "agent", "used_at", "created_at", "expires_at")
    found = [
        (row.id[:SHOWN], who, row.address, row.agent, iso(row.used_at), iso(row.created_at), iso(row.expires_at))
        for row, who in _sessions(file).latest(None, limit)
    ]
    sessions = [dict(zip(columns, entry, strict=True)) for entry in found]
    listing(json_wanted, {"sessions": sessions, "next": None}, columns, found)


@app.command()
def revoke(
    session_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of the session.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="End the sessions of everybody.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """End a session. Every API process refuses it within 5 s."""
    if (session_id is None) is not everybody:
        raise typer.BadParameter("give the id of a session, or --all")
    sessions, ended = _sessions(file), 1
    if session_id is None:
        ended = sessions.revoke_all(None, by=person())
    else:
        sessions.revoke(session_id, by=person())
    report(json_wanted, {"ended": ended}, f"{ended} session{' has' if ended == 1 else 's have'} ended")


def _sessions(file: str | None) -> Sessions:
    runtime = open_runtime(file)
    options = runtime.settings.dashboard
    return Sessions(runtime.database, {}, max_age=options.session_max_age, idle=options.session_idle)
