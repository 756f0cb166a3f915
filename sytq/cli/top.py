"""`sytq top`: queues, workers, rates, limiters and the latest failures on one screen, live."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sytq.cli.options import AsJson, File, open_runtime, seconds
from sytq.cli.output import age, as_json, cell
from sytq.cli.snapshot import snapshot, totals

_MIN_INTERVAL = 0.2
_ROWS = 12  # of each table; the screen ends where the terminal does
_QUIT = set("qQ\x04")  # and Escape alone: other keys begin with it


def top(
    interval: Annotated[
        float | None,
        typer.Option("--interval", "-i", parser=seconds, metavar="DURATION", help="Time between updates. Default: 2s."),
    ] = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Watch queues, workers, rates and failures; q quits. Without a terminal, print them once."""
    parts = open_runtime(file)
    pause = 2.0 if interval is None else max(interval, _MIN_INTERVAL)
    console = Console()
    if json_wanted or not (console.is_terminal and sys.stdin.isatty()):
        before = totals(parts)
        time.sleep(min(pause, 1.0))  # a rate needs two samples
        found = snapshot(parts, before, totals(parts))
        if json_wanted:
            as_json(found)
        else:
            console.width = max(console.width, 120)
            console.print(_screen(found))
        return
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        before = totals(parts)
        while True:
            now = totals(parts)
            found = snapshot(parts, before, now)
            live.update(_screen(found), refresh=True)
            before = now or before
            if pressed(pause):
                return


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Read single keys: yields a function that waits up to `timeout` seconds and returns True to quit."""
    keyboard = sys.stdin.fileno()
    usual = termios.tcgetattr(keyboard)

    def pressed(timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if select.select([keyboard], [], [], left)[0]:
                typed = os.read(keyboard, 100).decode(errors="replace")
                if not typed or typed == "\x1b" or _QUIT & set(typed):
                    return True
        return False

    tty.setcbreak(keyboard)  # Ctrl-C stays a signal
    try:
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, usual)


def _screen(found: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_head(found)]
    rows = [
        (queue["queue"], level["priority"], level["waiting"], level["running"], age(level["oldest_seconds"]))
        + ((queue["delayed"] or None, queue["set_aside"] or None) if level is queue["priorities"][0] else (None, None))
        for queue in found["queues"]
        for level in queue["priorities"]
        if level["waiting"] or level["running"] or (level is queue["priorities"][0] and queue["delayed"])
    ]
    columns = ("queue", "priority", "waiting", "running", "oldest", "delayed", "set aside")
    parts.append(_table(columns, rows, "all queues are empty"))
    outcomes = ("submitted", "succeeded", "dead", "cancelled")
    rates = [
        (rate["type"], *(f"{rate[key]:g}" if rate[key] else None for key in outcomes))
        for rate in found["rates"]
        if any(rate[key] for key in outcomes)
    ]
    parts.append(_table(("per second", "accepted", "succeeded", "dead", "cancelled"), rates, "nothing"))
    gates = [
        (
            gate["name"],
            gate["state"],
            gate["running"],
            gate["limit_now"] or None,
            gate["waiting"] or None,
            gate["reason"],
        )
        for gate in found["gates"]
        if gate["running"] or gate["waiting"] or gate["state"] != "closed"
    ]
    parts.append(_table(("limiter", "state", "running", "limit", "waiting", ""), gates, "none in use"))
    failures = [(task["finished_at"], task["id"], task["type"], task["error"]) for task in found["failures"]]
    parts.append(_table(("dead", "task", "type", "error"), failures, "none"))
    return Group(parts[0], *(part for table in parts[1:] for part in ("", table)))


def _head(found: dict[str, Any]) -> Text:
    workers, recorder = found["workers"], found["recorder"]
    said = [found["at"]]
    if workers is not None:
        said.append(
            f"{workers['alive']} worker{'' if workers['alive'] == 1 else 's'}"
            + (f", {workers['lost']} lost" if workers["lost"] else "")
        )
    if recorder is not None and recorder["waiting"]:
        said.append(f"history {age(recorder['seconds'])} behind")
    text = Text("  ".join(("sytq", *said)), style="bold")
    for store in found["unavailable"]:
        text.append(f"\n{cell(store)}", style="bold red")
    return text


def _table(columns: tuple[str, ...], rows: list[Any], nothing: str) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(column, no_wrap=True, overflow="ellipsis")
    empty = [None] * (len(columns) - 1)
    for row in rows[:_ROWS] or [(nothing, *empty)]:
        shown.add_row(*(Text(cell(value)) for value in row))
    if len(rows) > _ROWS:
        shown.add_row(Text(f"and {len(rows) - _ROWS} more", style="dim"), *empty)
    return shown
