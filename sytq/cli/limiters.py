"""`sytq gates`: what tasks share outside (providers, models, hosts), how much of it is used; pause and resume one.

Owns the words. The numbers are sytq.broker.limiter_states'.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sytq.broker.limiter_states import LimiterState
from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import age, as_json, cell, table
from sytq.errors import InvalidInput
from sytq.ledger.values import iso

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="GATE", help='The gate, such as "provider:deepseek".')]


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """Show every gate that is in use, paused or waited for."""
    found = open_runtime(file).inspection.gates()
    if json_wanted:
        as_json([_described(gate) for gate in found])
        return
    rows = []
    for gate in found:
        calls, units = (_of(*pair) for pair in ((gate.calls_in_window, gate.calls), (gate.units_in_window, gate.units)))
        running = _of(gate.running, gate.limit_now) or gate.running
        rows.append((gate.name, gate.state, running, gate.waiting, calls, units, _said(gate)))
    table(("gate", "state", "running", "waiting", "calls", "units", ""), rows)


@app.command()
def show(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Show one gate, with the first tasks inside and in line."""
    gate = open_runtime(file).inspection.gate(name)
    if gate is None:
        raise InvalidInput("gate", f"'{cell(name[:300])}' is not in use; see `sytq gates list`")
    if json_wanted:
        as_json(_described(gate, tasks=True))
        return
    window = f" in {age(gate.window)}"
    rows = (
        ("gate", gate.name),
        ("state", gate.state),
        ("since", iso(gate.since)),
        ("until", iso(gate.until) if gate.until else None),
        ("by", gate.by),
        ("reason", gate.reason),
        ("running", _of(gate.running, gate.limit_now) or gate.running),
        ("limit", gate.limit or None),
        ("waiting", gate.waiting),
        ("calls", _of(gate.calls_in_window, gate.calls, window)),
        ("units", _of(gate.units_in_window, gate.units, window)),
        ("failures", gate.failures),
        ("takes", age(gate.took)),
        *(("inside" if n == 0 else None, task) for n, task in enumerate(gate.inside)),
        *(("in line" if n == 0 else None, task) for n, task in enumerate(gate.line)),
    )
    table(("", ""), [row for row in rows if row[1] is not None])


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="Shown to whoever finds it paused.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Let no task through a gate, on any worker, until `resume`; what is inside goes on."""
    parts = open_runtime(file)
    known = parts.inspection.gate(name) is not None
    parts.limiters.pause(name, person(), why)
    noted(parts, "gate.pause", name, why)
    if json_wanted:
        as_json({"gate": name, "paused": True})
    else:
        typer.echo(f"{name} is paused" + ("" if known else "; no task has used it within the last hour"))


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Let tasks through a paused gate again, whoever paused it."""
    parts = open_runtime(file)
    if parts.limiters.open(name):
        noted(parts, "gate.resume", name)
    elif parts.inspection.gate(name) is None:
        raise InvalidInput("gate", f"'{cell(name[:300])}' is not in use; see `sytq gates list`")
    if json_wanted:
        as_json({"gate": name, "paused": False})
    else:
        typer.echo(f"{name} is not paused")


def _described(gate: LimiterState, *, tasks: bool = False) -> dict[str, Any]:
    shown = asdict(gate) | {"since": iso(gate.since), "until": iso(gate.until) if gate.until else None}
    return shown if tasks else {key: value for key, value in shown.items() if key not in ("inside", "line")}


def _of(used: int, most: int, within: str = "") -> str | None:
    return f"{used} of {most}{within}" if most else None


def _said(gate: LimiterState) -> str | None:
    if gate.state == "closed":
        return None
    until = f" until {iso(gate.until)}" if gate.until else ""
    by = f" by {gate.by}" if gate.by else ""
    return f"since {iso(gate.since)}{until}{by}: {gate.reason}"
