"""What several commands are given: the configuration, a moment, the person.

Owns how those are read, and the runtime of a command. Must not print.
"""

from __future__ import annotations

import datetime as dt
import os
import pwd
import re
from typing import Annotated

import typer

from sytq.cli.completion import complete_query
from sytq.config import load
from sytq.durations import VALID_DURATION, parse_duration
from sytq.errors import InvalidInput
from sytq.ledger.query import Filter
from sytq.observability import logs
from sytq.runtime import Runtime, build

File = Annotated[
    str | None, typer.Option("--file", "-f", help="The YAML file; default: the one that SYTQ_CONFIG names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="The most to show.")]
After = Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Go on where a list before ended.")]
Why = Annotated[str, typer.Option("--why", help="Shown with the task.")]
Query = Annotated[
    str,
    typer.Argument(
        metavar="[QUERY]", help="Which tasks, such as 'type:webhook age:<1h'.", autocompletion=complete_query
    ),
]

VALID_MOMENT = "now, a duration such as 10m, or a time with its offset such as 2026-07-01T12:00:00Z"
#: RFC 3339: the offset is not optional, as nobody knows which clock a bare time means.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def open_runtime(file: str | None) -> Runtime:
    """The parts of a command; their warnings go to standard error, as standard output may be somebody's JSON."""
    logs.configure("warning", "console", "cli")
    return build(load(file))


def seconds(text: str) -> float:
    """A length of time."""
    try:
        return parse_duration(text)
    except ValueError:
        raise typer.BadParameter(f"'{text[:64]}' is not valid; valid: {VALID_DURATION}") from None


def ahead(text: str) -> dt.datetime:
    """A moment to come: a duration counts from now."""
    return _moment(text, 1)


def ago(text: str) -> dt.datetime:
    """A moment that was: a duration counts back from now."""
    return _moment(text, -1)


def _moment(text: str, direction: int) -> dt.datetime:
    now = dt.datetime.now(dt.UTC)
    try:
        if text == "now":
            return now
        if _RFC3339.fullmatch(text):
            return dt.datetime.fromisoformat(text.upper().replace(" ", "T")).astimezone(dt.UTC)
        return now + direction * dt.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"'{text[:64]}' is not valid; valid: {VALID_MOMENT}") from None


def refuse_unknown(parts: Runtime, wanted: Filter) -> None:
    """An empty list because of a wrong name is an error. Raises InvalidInput naming the valid ones."""
    for name in wanted.named("type"):
        parts.registry.get(name)
    queues = sorted({declared.queue for declared in parts.registry} | {"default"})
    for queue in wanted.named("queue"):
        if queue not in queues:
            raise InvalidInput("queue", f"'{queue[:64]}' is not a queue; valid: {', '.join(queues)}")


def person() -> str:
    """Who gives the command, for those who see what came of it: the account that it runs under, whatever the
    environment says; behind `sudo` also who used it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account without a name, as containers have
        name = f"uid {os.getuid()}"
    real = os.environ.get("SUDO_USER")
    return f"{name} (sudo by {real})" if real else name


def signed(why: str) -> str:
    """Who gives the command, and why."""
    return f"{person()}: {why}" if why else person()
