"""`sytq config`: check the configuration, and show it with the origin of every value. Secrets are masked."""

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
from sytq.config.compat import NO_EFFECT
from sytq.config.urls import ignored_parameters
from sytq.errors import ConfigError
from sytq.observability import logs
from sytq.tasktypes.registry import Registry

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(json_wanted: AsJson = False, file: File = None) -> None:
    """Check the configuration. Exits 0 when processes can start with it, otherwise 2 with a list of problems."""
    try:
        settings = load(file)
        logs.configure("error", "console", "cli")
        registry = Registry.load(settings)  # plugins check their own settings
    except ConfigError as error:
        if json_wanted:
            as_json({"valid": False, "problems": str(error).splitlines(), "warnings": []})
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    found = list(warnings(settings))
    if settings.auth.enabled and not settings.auth.users:  # `sytq doctor` also checks whether a valid key exists
        found.append("auth.users is empty: only API keys are accepted (`sytq key create`)")
    found += [f"plugin {q.source} is quarantined: {q.error}" for q in registry.quarantined]
    if json_wanted:
        as_json({"valid": True, "problems": [], "warnings": found})
        return
    for warning in found:
        typer.echo(f"warning: {warning}", err=True)
    given = len(settings.origins)
    many = "" if given == 1 else "s"
    typer.echo(f"The configuration is valid: {given} setting{many} given, the others are defaults.")


@app.command()
def show(json_wanted: AsJson = False, file: File = None) -> None:
    """Show every setting with its value and origin. Secrets are masked."""
    rows = list(load(file).describe())
    if json_wanted:
        as_json(
            [
                {"key": key, "value": value, "origin": origin, "has_effect": key not in NO_EFFECT}
                for key, value, origin in rows
            ]
        )
        return
    table = Table("key", "value", "origin", box=None, pad_edge=False)
    for key, value, origin in rows:
        said = f"{origin} (accepted, has no effect)" if key in NO_EFFECT else origin
        # As Text, so that a value in [brackets] is not read as markup.
        table.add_row(Text(key), Text(value), Text(said, style="dim" if origin == "default" else ""))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # in a pipe or a file, one line per setting, whatever its length
    console.print(table)


def warnings(settings: Settings) -> Iterator[str]:
    """Settings that are allowed but probably unintended."""
    if not settings.auth.enabled:
        if is_loopback(settings.api.host):
            yield "auth.enabled is false: every local caller is served without a key"
        else:
            yield f"auth.enabled is false while api.host is {settings.api.host}, which others can reach"
    for plugin in settings.installed.plugins:
        if plugin.warnings is not None:
            yield from plugin.warnings(settings)
    if settings.mysql.dsn and (names := ignored_parameters(settings.mysql.dsn)):
        yield f"mysql.dsn: {', '.join(names)} has no effect; sytq configures the session itself"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
