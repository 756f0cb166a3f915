"""`sytq types`: pause and resume a task type."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import cell, report
from sytq.errors import InvalidInput

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TYPE", help="Task type.")]


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="A reason, shown while the type is paused.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Pause a task type until `resume`. Running tasks finish; the pause holds on all workers and survives restarts."""
    parts = open_runtime(file)
    parts.operator.pause(name, by=person(), why=why)
    noted(parts, "type.pause", name, why)
    report(json_wanted, {"type": name, "paused": True}, f"{name} is paused")


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Resume a paused task type."""
    parts = open_runtime(file)
    if parts.operator.resume(name):
        noted(parts, "type.resume", name)
    elif name not in parts.registry:
        raise InvalidInput("type", f"'{cell(name[:64])}' is neither paused nor installed; see `sytq plugin list`")
    report(json_wanted, {"type": name, "paused": False}, f"{name} is not paused")
