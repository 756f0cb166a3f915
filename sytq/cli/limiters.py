"""`sytq limiters`: list and show limiters, pause and resume one."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.broker.limiter_states import LimiterState
from sytq.cli.noted import noted
from sytq.cli.options import AsJson, File, open_runtime, person
from sytq.cli.output import age, cell, listing, report, tasks_that
from sytq.errors import InvalidInput
from sytq.ledger.values import iso
from sytq.runtime import Runtime
from sytq.service import status
from sytq.service.pausing import split

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="LIMITER", help='The limiter, such as "provider:deepseek".')]


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """Show every limiter that is in use, is paused or has tasks waiting, and limited queues and types."""
    found = open_runtime(file).inspection.limiters()
    rows = []
    for limiter in found:
        calls, cost = _of(limiter.calls_in_window, limiter.calls), _of(limiter.units_in_window, limiter.units)
        rows.append((limiter.name, limiter.state, _held(limiter), limiter.waiting, calls, cost, _reason(limiter)))
    described = [status.limiter(limiter) for limiter in found]
    listing(json_wanted, described, ("limiter", "state", "held", "waiting", "calls", "cost", ""), rows)


@app.command()
def show(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Show one limiter, with the first tasks that hold a permit and that wait for one."""
    limiter = open_runtime(file).inspection.limiter(name)
    if limiter is None:
        raise _not_in_use(name)
    window = f" in {age(limiter.window)}"
    rows = (
        ("limiter", limiter.name),
        ("state", limiter.state),
        ("since", _moment(limiter.since)),
        ("until", _moment(limiter.until)),
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
    found = {**status.limiter(limiter), "inside": limiter.inside, "line": limiter.line}
    listing(json_wanted, found, ("", ""), [row for row in rows if row[1] is not None])


@app.command()
def pause(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="The reason, shown wherever the pause is.")],
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Grant no permit of a limiter, on any worker, until `resume`; tasks that hold one go on.

    type:NAME pauses a task type, queue:NAME all types of a queue.
    """
    parts = open_runtime(file)
    before = parts.inspection.limiter(name)
    parts.pausing.pause(name, person(), why)
    _noted(parts, "pause", name, why)
    said = f"{name} is paused"
    waiting = (before and before.waiting) or 0
    if types := parts.pausing.types(name):
        running, waiting = parts.pausing.tasks(types)
        said += f": {tasks_that(waiting, 'waits', 'wait')}, {tasks_that(running, 'runs on', 'run on')}"
    elif before is None:
        said += "; no task has used it within the last hour"
    else:
        holders = tasks_that(before.running or 0, "has a permit and goes on", "have a permit and go on")
        said += f": {_waiting(before)}, {holders}"
        said += f"; it was paused by {cell(before.by)}: {cell(before.reason)}" if before.by else ""
    report(json_wanted, {"gate": name, "paused": True, "waiting": waiting}, said)


@app.command()
def resume(name: Name, json_wanted: AsJson = False, file: File = None) -> None:
    """Grant permits again: end a limiter's pause, whoever paused it, and close its circuit breaker.

    type:NAME resumes a task type, queue:NAME all types of a queue.
    """
    parts = open_runtime(file)
    if resumed := parts.pausing.resume(name):
        _noted(parts, "resume", name)
        what = "paused" if resumed.held == "paused" else f"its circuit breaker was {resumed.held}"
        by = f" by {cell(resumed.by)}" if resumed.by else ""
        said = f"{name} is resumed: {tasks_that(resumed.waiting, 'goes on', 'go on')} ({what}{by}: {cell(resumed.why)})"
    elif parts.pausing.types(name):
        said = f"{name} is not paused"
    elif (limiter := parts.inspection.limiter(name)) is None:
        raise _not_in_use(name)
    else:
        said = f"{name} is not paused: it is {limiter.state}, {_held(limiter)} permits held, {_waiting(limiter)}"
    outcome = {"gate": name, "paused": False, "ended": resumed.held or None, "waiting": resumed.waiting}
    report(json_wanted, outcome, said)


def _noted(parts: Runtime, verb: str, name: str, why: str | None = None) -> None:
    kind, about = split(name)
    action = {"limiter": "gate"}.get(kind, kind)  # the audit kept the word of earlier versions
    noted(parts, f"{action}.{verb}", about, why)


def _not_in_use(name: str) -> InvalidInput:
    return InvalidInput("limiter", f"'{cell(name[:300])}' is not in use; see `sytq limiters list`")


def _waiting(limiter: LimiterState) -> str:
    return tasks_that(limiter.waiting, "waits", "wait")


def _held(limiter: LimiterState) -> str | int | None:
    return _of(limiter.running, limiter.limit_now) or limiter.running


def _of(used: int | None, limit: int, within: str = "") -> str | None:
    return f"{used} of {limit}{within}" if limit else None


def _reason(limiter: LimiterState) -> str | None:
    if limiter.state == "closed":
        return None
    parts = {"since": _moment(limiter.since), "until": _moment(limiter.until), "by": limiter.by}
    return " ".join(f"{word} {value}" for word, value in parts.items() if value) + f": {limiter.reason}"


def _moment(seconds: float | None) -> str | None:
    return iso(seconds) if seconds else None
