"""`sytq types`: pause and resume a task type."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import cell, report, tasks_that
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
    running, waiting = parts.pausing.tasks([name])
    said = f"{name} is paused: {tasks_that(waiting, 'waits', 'wait')}, {tasks_that(running, 'runs on', 'run on')}"
    report(json_wanted, {"type": name, "paused": True, "waiting": waiting}, said)


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Resume a paused task type."""
    parts = open_runtime(file)
    running, waiting = parts.pausing.tasks([name])
    resumed = bool(parts.operator.resume(name))
    if resumed:
        noted(parts, "type.resume", name)
    elif name not in parts.registry:
        raise InvalidInput("type", f"'{cell(name[:64])}' is neither paused nor installed; see `sytq plugin list`")
    said = f"{name} is resumed: {tasks_that(waiting, 'goes on', 'go on')}"
    if not resumed:
        said = f"{name} is not paused: {tasks_that(running, 'runs', 'run')}, {tasks_that(waiting, 'waits', 'wait')}"
    report(json_wanted, {"type": name, "paused": False, "resumed": resumed, "waiting": waiting}, said)
