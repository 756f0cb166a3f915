"""`sytq types`: the task types that are installed; pause and resume one.

Owns the words. A pause is a type's and not a queue's, hence this group: what shares a queue with it goes on.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sytq import overview
from sytq.cli.given import AsJson, File, open_runtime, person
from sytq.cli.shown import as_json, cell, table
from sytq.errors import InvalidInput

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TYPE", help="The task type.")]


@app.command("list")
def list_(
    paused: Annotated[bool, typer.Option("--paused", help="Only those that are paused.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show every task type, with its pause."""
    parts = open_runtime(file)
    found = overview.types(parts, paused_only=paused)
    if json_wanted:
        sources = {declared.name: declared.source for declared in parts.registry}
        as_json([{**entry, "source": sources.get(entry["type"])} for entry in found])
        return
    rows = []
    for entry in found:
        pause = entry["paused"]
        said = f"since {pause['at']} by {pause['by']}: {pause['why']}" if pause else None
        shown = (entry["type"], entry["queue"], entry["priority"], entry["max_attempts"], entry["timeout"])
        rows.append((*shown, said))
    table(("type", "queue", "priority", "attempts", "timeout", "paused"), rows)


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="Shown to whoever finds it paused.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Start no task of a type, on any worker, until `resume`; what runs goes on. Survives restarts."""
    open_runtime(file).operator.pause(name, by=person(), why=why)
    if json_wanted:
        as_json({"type": name, "paused": True})
    else:
        typer.echo(f"{name} is paused")


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Start tasks of a type again."""
    parts = open_runtime(file)
    if not parts.operator.resume(name) and name not in parts.registry:
        raise InvalidInput("type", f"'{cell(name[:64])}' is neither paused nor installed; see `sytq types list`")
    if json_wanted:
        as_json({"type": name, "paused": False})
    else:
        typer.echo(f"{name} is not paused")
