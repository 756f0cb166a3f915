"""`sytq types`: pause and resume a task type.

Owns the words. A pause is a type's and not a queue's, hence this group: what shares a queue with it goes on. Which
types there are, and which of them are paused, says `sytq plugin list`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import as_json, cell
from sytq.errors import InvalidInput

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TYPE", help="The task type.")]


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="Shown to whoever finds it paused.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Start no task of a type, on any worker, until `resume`; what runs goes on. Survives restarts."""
    parts = open_runtime(file)
    parts.operator.pause(name, by=person(), why=why)
    noted(parts, "type.pause", name, why)
    if json_wanted:
        as_json({"type": name, "paused": True})
    else:
        typer.echo(f"{name} is paused")


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Start tasks of a type again."""
    parts = open_runtime(file)
    if parts.operator.resume(name):
        noted(parts, "type.resume", name)
    elif name not in parts.registry:
        raise InvalidInput("type", f"'{cell(name[:64])}' is neither paused nor installed; see `sytq plugin list`")
    if json_wanted:
        as_json({"type": name, "paused": False})
    else:
        typer.echo(f"{name} is not paused")
