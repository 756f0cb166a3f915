"""`sytq limiters`: list and show limiters, pause and resume one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sytq.broker.limiter_states import LimiterState
from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import age, as_json, cell, listing, report, table
from sytq.errors import InvalidInput
from sytq.ledger.values import iso

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="LIMITER", help='The limiter, such as "provider:deepseek".')]


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """Show every limiter that is in use, is paused or has tasks waiting."""
    found = open_runtime(file).inspection.limiters()
    rows = []
    for limiter in found:
        calls, cost = _of(limiter.calls_in_window, limiter.calls), _of(limiter.units_in_window, limiter.units)
        rows.append((limiter.name, limiter.state, _held(limiter), limiter.waiting, calls, cost, _reason(limiter)))
    described = [_described(limiter) for limiter in found]
    listing(json_wanted, described, ("limiter", "state", "held", "waiting", "calls", "cost", ""), rows)


@app.command()
def show(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Show one limiter, with the first tasks that hold a permit and that wait for one."""
    limiter = open_runtime(file).inspection.limiter(name)
    if limiter is None:
        raise _not_in_use(name)
    if json_wanted:
        as_json(_described(limiter, tasks=True))
        return
    window = f" in {age(limiter.window)}"
    rows = (
        ("limiter", limiter.name),
        ("state", limiter.state),
        ("since", iso(limiter.since)),
        ("until", iso(limiter.until) if limiter.until else None),
        ("by", limiter.by),
        ("reason", limiter.reason),
        ("held", _held(limiter)),
        ("limit", limiter.limit or None),
        ("waiting", limiter.waiting),
        ("calls", _of(limiter.calls_in_window, limiter.calls, window)),
        ("cost", _of(limiter.units_in_window, limiter.units, window)),
        ("failures", limiter.failures),
        ("held for", age(limiter.took)),
        *(("held by" if n == 0 else None, task) for n, task in enumerate(limiter.inside)),
        *(("wait queue" if n == 0 else None, task) for n, task in enumerate(limiter.line)),
    )
    table(("", ""), [row for row in rows if row[1] is not None])


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="The reason, shown wherever the pause is.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Grant no permit of a limiter, on any worker, until `resume`; tasks that hold one go on."""
    parts = open_runtime(file)
    known = parts.inspection.limiter(name) is not None
    parts.limiters.pause(name, person(), why)
    noted(parts, "gate.pause", name, why)
    said = f"{name} is paused" + ("" if known else "; no task has used it within the last hour")
    report(json_wanted, {"gate": name, "paused": True}, said)


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Grant permits of a paused limiter again, whoever paused it."""
    parts = open_runtime(file)
    if parts.limiters.resume(name):
        noted(parts, "gate.resume", name)
    elif parts.inspection.limiter(name) is None:
        raise _not_in_use(name)
    report(json_wanted, {"gate": name, "paused": False}, f"{name} is not paused")


def _not_in_use(name: str) -> InvalidInput:
    return InvalidInput("limiter", f"'{cell(name[:300])}' is not in use; see `sytq limiters list`")


def _described(limiter: LimiterState, *, tasks: bool = False) -> dict[str, Any]:
    shown = asdict(limiter) | {"since": iso(limiter.since), "until": iso(limiter.until) if limiter.until else None}
    return shown if tasks else {key: value for key, value in shown.items() if key not in ("inside", "line")}


def _held(limiter: LimiterState) -> str | int:
    return _of(limiter.running, limiter.limit_now) or limiter.running


def _of(used: int, limit: int, within: str = "") -> str | None:
    return f"{used} of {limit}{within}" if limit else None


def _reason(limiter: LimiterState) -> str | None:
    if limiter.state == "closed":
        return None
    until = f" until {iso(limiter.until)}" if limiter.until else ""
    by = f" by {limiter.by}" if limiter.by else ""
    return f"since {iso(limiter.since)}{until}{by}: {limiter.reason}"
