"""`sytq types`: the task types that are installed; pause and resume one.

Owns the words. A pause is a type's and not a queue's, hence this group: what shares a queue with it goes on.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sytq.cli.given import AsJson, File, open_runtime, person
from sytq.cli.shown import as_json, cell, iso, table
from sytq.durations import format_duration
from sytq.errors import InvalidInput

app = typer.Typer(help="List task types; pause and resume one.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TYPE", help="The task type.")]


@app.command("list")
def list_(
    paused: Annotated[bool, typer.Option("--paused", help="Only those that are paused.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show every task type, with its pause."""
    parts = open_runtime(file)
    pauses = {row.type: row for row in parts.operator.pauses()}
    known = {declared.name: declared for declared in parts.registry}
    found: list[dict[str, Any]] = []
    # A type that is paused stays so when it is not installed here, or no more.
    for name in sorted(pauses if paused else known.keys() | pauses.keys()):
        declared, row = known.get(name), pauses.get(name)
        pause = {"at": iso(row.paused_at), "by": row.paused_by, "why": row.paused_why} if row else None
        found.append(
            {
                "type": name,
                "queue": declared.queue if declared else None,
                "priority": declared.priority if declared else None,
                "max_attempts": declared.backoff.max_attempts if declared else None,
                "timeout": format_duration(declared.seconds) if declared else None,
                "source": declared.source if declared else None,
                "paused": pause,
            }
        )
    if json_wanted:
        as_json(found)
        return
    columns = ("type", "queue", "priority", "max_attempts", "timeout")
    rows = []
    for entry in found:
        pause = entry["paused"]
        said = f"since {pause['at']} by {pause['by']}: {pause['why']}" if pause else None
        rows.append((*(entry[column] for column in columns), said))
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
