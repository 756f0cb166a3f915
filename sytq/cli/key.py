"""`sytq key`: create, list, revoke and rotate API keys. Only `create` and `rotate` print a key, once."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from sytq.cli.options import VALID_MOMENT, AsJson, File, ahead, open_runtime, person, seconds
from sytq.cli.output import as_json, cell, listing, report
from sytq.config.values import Rate
from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.models import ApiKey
from sytq.ledger.values import iso, utcnow

app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the key: the part after sytq_.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that says what the key is for.")],
    owner: Annotated[
        str | None, typer.Option("--owner", help="Owner of the tasks that the key submits and sees. Default: NAME.")
    ] = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", help="submit, read, operate or admin; repeatable. Default: submit and read."),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="A task type that the key may submit; repeatable. Default: every type."),
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Maximum request rate, such as 100/min.")] = None,
    daily: Annotated[int | None, typer.Option("--daily", min=1, help="Maximum number of tasks per UTC day.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="WHEN", help=f"Expiry: {VALID_MOMENT}.")] = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Create a key and print it. You cannot see it again later."""
    until = ahead(expires).replace(tzinfo=None) if expires is not None else None
    grant = Grant(tuple(scopes or ("submit", "read")), tuple(types or ()), _rate(rate), daily, until)
    keys = ApiKeys(open_runtime(file).database)
    _print(*keys.create(name, name if owner is None else owner, grant, by=person()), json_wanted)


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """List all keys, without their secrets."""
    rows = ApiKeys(open_runtime(file).database).all()
    found = [_shown(row) for row in rows]
    lines = []
    for shown in found:
        limits = [shown["rate"], f"{shown['daily_tasks']} tasks a day" if shown["daily_tasks"] else None]
        lines.append(
            (
                *(shown[column] for column in ("id", "name", "owner")),
                " ".join(shown["scopes"]),
                " ".join(shown["types"] or ["every type"]),
                ", ".join(limit for limit in limits if limit),
                *(shown[column] for column in ("last_used_at", "expires_at", "state")),
            )
        )
    columns = ("id", "name", "owner", "scopes", "types", "limits", "last used", "expires", "state")
    listing(json_wanted, {"keys": found, "next": None}, columns, lines)


@app.command()
def revoke(key_id: Id, json_wanted: AsJson = False, file: File = None) -> None:
    """Revoke a key. Every API process refuses it within 5 s."""
    revoked = ApiKeys(open_runtime(file).database).revoke(key_id, by=person())
    said = f"{key_id} is revoked" if revoked else f"{key_id} was already revoked"
    report(json_wanted, {"id": key_id, "revoked": revoked}, said)


@app.command()
def rotate(
    key_id: Id,
    grace: Annotated[str, typer.Option("--grace", help="How long the previous secret stays valid.")] = "24h",
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Give a key a new secret and print it. The previous secret stays valid for the grace period."""
    valid_for = seconds(grace)
    keys = ApiKeys(open_runtime(file).database)
    _print(*keys.rotate(key_id, valid_for, by=person()), json_wanted)


def _print(row: ApiKey, text: str, json_wanted: bool) -> None:
    if json_wanted:
        as_json(_shown(row) | {"key": text})
        return
    typer.echo(f"{cell(row.name)}, owner {row.owner}, scopes {row.scopes}; this key is shown only once:", err=True)
    typer.echo(text)


def _rate(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        calls, period = TypeAdapter(Rate).validate_python(text)
    except ValueError:
        raise typer.BadParameter(f"'{text[:64]}' is not valid; valid: a rate such as 100/min") from None
    return calls, int(period)


def _shown(row: ApiKey) -> dict[str, Any]:
    now = utcnow()
    grace = row.previous_until if row.previous_until and row.previous_until > now else None
    state = "rotated" if grace else "live"
    if row.expires_at and row.expires_at <= now:
        state = "expired"
    if row.revoked_at:
        state = "revoked"
    return {
        "id": row.id,
        "name": row.name,
        "owner": row.owner,
        "state": state,
        "scopes": row.scopes.split(),
        "types": row.types.split() if row.types else None,
        "rate": f"{row.rate_calls}/{row.rate_seconds}s" if row.rate_seconds else None,
        "daily_tasks": row.daily_tasks,
        "created_at": iso(row.created_at),
        "expires_at": iso(row.expires_at) if row.expires_at else None,
        "last_used_at": iso(row.last_used_at) if row.last_used_at else None,
        "previous_until": iso(grace) if grace else None,
        "revoked_at": iso(row.revoked_at) if row.revoked_at else None,
    }
