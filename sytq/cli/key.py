"""`sytq key`: create, list, revoke and rotate API keys. Only `create` and `rotate` print a key, once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from sytq.cli.options import VALID_MOMENT, AsJson, File, ahead, open_runtime, person, seconds
from sytq.cli.output import as_json, cell, listing, report
from sytq.errors import InvalidInput
from sytq.ledger.api_keys import ApiKeys, Grant, NotConfirmed
from sytq.ledger.models import ApiKey
from sytq.service.api_keys import read_rate, view

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
    with _printed_unconfirmed(json_wanted):
        _print(*keys.create(name, name if owner is None else owner, grant, by=person()), json_wanted)


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """List all keys, without their secrets."""
    rows = ApiKeys(open_runtime(file).database).all()
    found = [view(row) for row in rows]
    lines = []
    for shown in found:
        limits = [shown["rate"], f"{shown['daily_tasks']} tasks a day" if shown["daily_tasks"] else None]
        rights = " ".join(shown["scopes"]), " ".join(shown["types"] or ["every type"]), ", ".join(filter(None, limits))
        whose, when = ("id", "name", "owner"), ("last_used_at", "expires_at", "state")
        lines.append((*(shown[column] for column in whose), *rights, *(shown[column] for column in when)))
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
    with _printed_unconfirmed(json_wanted):
        _print(*keys.rotate(key_id, valid_for, by=person()), json_wanted)


def _print(row: ApiKey, text: str, json_wanted: bool) -> None:
    if json_wanted:
        as_json(view(row) | {"key": text})
        return
    typer.echo(f"{cell(row.name)}, owner {row.owner}, scopes {row.scopes}; this key is shown only once:", err=True)
    typer.echo(text)


@contextmanager
def _printed_unconfirmed(json_wanted: bool) -> Iterator[None]:
    """Print a key whose commit the database has not confirmed, too; the error and the exit status say so."""
    try:
        yield
    except NotConfirmed as error:
        if json_wanted:
            as_json({"id": error.key_id, "key": error.text})
        else:
            typer.echo(error.text)
        raise


def _rate(text: str | None) -> tuple[int, int] | None:
    try:
        return None if text is None else read_rate(text)
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None
