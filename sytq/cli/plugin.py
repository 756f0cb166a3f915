"""`sytq plugin`: list task types, write the file of a new one, check a file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import peewee
import typer

from sytq.cli.options import AsJson, File, open_runtime
from sytq.cli.output import as_json, cell, listing
from sytq.dev import scaffold
from sytq.errors import DatabaseUnavailable
from sytq.ledger.models import Pause
from sytq.runtime import Runtime
from sytq.service import status
from sytq.testing.check import check as examine

app = typer.Typer(no_args_is_help=True)

_MAX_FIELDS = 48  # characters


@app.command("list")
def list_(
    paused: Annotated[bool, typer.Option("--paused", help="Only paused types.")] = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """List all task types. Shows version, policy, payload, state and source."""
    parts = open_runtime(file)
    found = _entries(parts)
    if paused:
        found = [entry for entry in found if entry["paused"]]
    columns = ("type", "version", "queue", "priority", "attempts", "timeout", "payload", "state", "source")
    rows = []
    for entry in found:
        said = [entry["source"], entry["reason"], "for admins only" if entry["admin_only"] else None]
        if pause := entry["paused"]:
            said.append(f"since {pause['at']} by {pause['by']}: {pause['why']}")
        shown = [entry.get(name) for name in ("type", "version", "queue", "priority", "max_attempts", "timeout")]
        fields = _fields(entry["payload_schema"])
        rows.append((*shown, fields, entry["state"], "; ".join(str(part) for part in said if part)))
    listing(json_wanted, found, columns, rows)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the task type.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Target folder. Default: the first of plugins.paths, or plugins.")
    ] = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Create a file with a new task type and its test. An existing file is never overwritten."""
    parts = open_runtime(file)
    paths = parts.settings.plugins.paths
    written = scaffold.write(name, folder or Path(paths[0] if paths else scaffold.HERE), parts.registry)
    if json_wanted:
        as_json({"type": name, "file": str(written)})
        return
    payload = json.dumps({"type": name, "payload": {"name": "Ada"}})
    typer.echo(f"Wrote {written}.\n")
    typer.echo(f"  sytq plugin check {written}")
    typer.echo(f"  pytest {written}")
    typer.echo("  sytq dev")
    typer.echo(f"  curl -H 'Content-Type: application/json' -H 'Prefer: wait=10' -d '{payload}' \\")
    typer.echo(f"      http://127.0.0.1:{parts.settings.api.port}/v2/tasks")


@app.command()
def check(
    plugin: Annotated[Path, typer.Argument(metavar="FILE", help="File of the plugin.")],
    tests: Annotated[bool, typer.Option("--tests/--no-tests", help="Run the standard tests of the plugin.")] = True,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Check a plugin file and run its standard tests. Exits 1 when there is a problem."""
    environ = os.environ | ({"SYTQ_CONFIG": os.path.abspath(file)} if file else {})
    try:
        report = examine(plugin, environ, tests=tests)
    except OSError as error:
        typer.echo(f"sytq: {plugin}: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    if json_wanted:
        problems = [{"line": problem.line, "text": problem.text} for problem in report.problems]
        as_json({"file": str(plugin), **asdict(report), "problems": problems})
    for problem in [] if json_wanted else report.problems:
        place = f"{plugin}:{problem.line}" if problem.line else str(plugin)
        typer.echo(f"{place}: {cell(problem.text)}", err=True)
    if not report.problems and not json_wanted:
        passed = f"{report.passed} tests passed, {report.skipped} do not apply" if tests else "tests not run"
        typer.echo(f"{plugin}: ok ({', '.join(report.types) or 'a type factory'}; {passed})")
    raise typer.Exit(1 if report.problems else 0)


def _entries(parts: Runtime) -> list[dict[str, Any]]:
    known = {declared.name: declared for declared in parts.registry}
    found: list[dict[str, Any]] = []
    for view in status.types(parts.registry, _pauses(parts)):
        declared = known.get(view["type"])
        state = "paused" if view["paused"] else "ready"
        found.append(
            {
                **view,
                "retry": asdict(declared.retry) if declared else None,
                "payload_schema": declared.payload.model_json_schema() if declared else None,
                "state": state if declared else "missing",
                "source": declared.source if declared else None,
                "reason": None,
            }
        )
    empty: dict[str, Any] = dict.fromkeys(found[0]) if found else {}
    for each in parts.registry.quarantined:
        found.append({**empty, "state": "quarantined", "source": each.source, "reason": each.error})
    return found


def _pauses(parts: Runtime) -> list[Pause]:
    """The paused types; without a database, none and a warning."""
    try:
        return parts.operator.pauses()
    except (DatabaseUnavailable, peewee.PeeweeException):
        typer.echo("warning: the database is unavailable; paused types are not shown", err=True)
        return []


def _fields(schema: dict[str, Any] | None) -> str:
    """The fields of a payload, the optional ones with a question mark."""
    names = (schema or {}).get("properties", {})
    needed = (schema or {}).get("required", [])
    text = ", ".join(name if name in needed else f"{name}?" for name in names)
    return text if len(text) <= _MAX_FIELDS else f"{text[: _MAX_FIELDS - 3]}..."
