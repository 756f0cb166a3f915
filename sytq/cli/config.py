"""`sytq config`: say whether the configuration is usable, and show it with the origin of every value.

Owns the words of the warnings. Must not show a secret; masking is done by `Settings.describe`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sytq.cli.options import AsJson, File
from sytq.cli.output import as_json
from sytq.config import Settings, load
from sytq.config.urls import ignored_parameters
from sytq.errors import ConfigError
from sytq.observability import logs
from sytq.tasktypes.registry import Registry

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(json_wanted: AsJson = False, file: File = None) -> None:
    """Exit 0 when a process could start with this configuration, 2 with every problem when not."""
    try:
        settings = load(file)
        logs.configure("error", "console", "cli")
        registry = Registry.load(settings)  # task types check the keys of their own
    except ConfigError as error:
        if json_wanted:
            as_json({"valid": False, "problems": str(error).splitlines(), "warnings": []})
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    found = [*warnings(settings), *_keys_alone(settings)]
    found += [f"plugin {q.source} is set aside: {q.error}" for q in registry.quarantined]
    if json_wanted:
        as_json({"valid": True, "problems": [], "warnings": found})
        return
    for warning in found:
        typer.echo(f"warning: {warning}", err=True)
    given = len(settings.origins)
    typer.echo(f"The configuration is valid; {given} setting{'' if given == 1 else 's'} given, the rest default.")


@app.command()
def show(json_wanted: AsJson = False, file: File = None) -> None:
    """Print every setting with its value, secrets masked, and where the value comes from."""
    rows = list(load(file).describe())
    if json_wanted:
        as_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
        return
    table = Table("key", "value", "origin", box=None, pad_edge=False)
    for key, value, origin in rows:
        # As Text: a value in [brackets] is no markup.
        table.add_row(Text(key), Text(value), Text(origin, style="dim" if origin == "default" else ""))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # in a pipe or file one line a setting, whatever its length
    console.print(table)


def warnings(settings: Settings) -> Iterator[str]:
    """Yield what is allowed but probably not meant, one sentence each."""
    if not settings.auth.enabled:
        if is_loopback(settings.api.host):
            yield "auth.enabled is false; valid for loopback only, as any caller is served without a key"
        else:
            yield f"auth.enabled is false while api.host is {settings.api.host}, which others can reach"
    if settings.webhook.secret is None:
        yield "webhook.secret is not set; webhooks and callbacks are sent without a signature"
    if settings.llm_provider is None:
        yield "no provider is configured; LLM tasks cannot run (see providers and deepseek)"
    elif not settings.providers[settings.llm_provider].api_key:
        yield f"providers.{settings.llm_provider}.api_key is not set; requests go out without a key"
    if settings.mysql.dsn and (names := ignored_parameters(settings.mysql.dsn)):
        yield f"mysql.dsn: {', '.join(names)} has no effect; the session is set up by sytq"


def _keys_alone(settings: Settings) -> Iterator[str]:
    """What follows from the configuration alone; `sytq doctor` looks whether there are keys."""
    if settings.auth.enabled and not settings.auth.users:
        yield "auth.users is empty, so that only API keys are let in (`sytq key create`)"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
