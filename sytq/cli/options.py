"""Options and arguments that several commands share, and how they are parsed. Prints nothing."""

from __future__ import annotations

import datetime as dt
import os
import pwd
import re
from typing import Annotated

import typer

from sytq import clock
from sytq.cli.completion import complete_query, complete_type
from sytq.config import load
from sytq.durations import VALID_DURATION, parse_duration
from sytq.errors import InvalidInput
from sytq.ledger.query import Filter
from sytq.observability import logs
from sytq.runtime import Runtime, build

File = Annotated[
    str | None, typer.Option("--file", "-f", help="The YAML file. Default: the file that SYTQ_CONFIG names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OnlyType = Annotated[str | None, typer.Option("--type", "-t", help="Only this type.", autocompletion=complete_type)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Maximum number of entries.")]
After = Annotated[
    str | None, typer.Option("--after", metavar="CURSOR", help="Continue after this cursor of the previous page.")
]
Why = Annotated[str, typer.Option("--why", help="A reason, shown with the task.")]
Query = Annotated[
    str,
    typer.Argument(
        metavar="[QUERY]", help="Only matching tasks, such as 'type:webhook age:<1h'.", autocompletion=complete_query
    ),
]

VALID_MOMENT = "now, a duration such as 10m, or a time with its UTC offset such as 2026-07-01T12:00:00Z"
#: RFC 3339 with its offset: a bare time would be ambiguous.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def open_runtime(file: str | None) -> Runtime:
    """Build the runtime of a command. Its warnings go to standard error: standard output may be JSON."""
    logs.configure("warning", "console", "cli")
    return build(load(file))


def seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise typer.BadParameter(f"'{text[:64]}' is not valid; valid: {VALID_DURATION}") from None


def ahead(text: str) -> dt.datetime:
    """Parse a moment; a duration counts forward from now."""
    return _moment(text, 1)


def ago(text: str) -> dt.datetime:
    """Parse a moment; a duration counts back from now."""
    return _moment(text, -1)


def _moment(text: str, direction: int) -> dt.datetime:
    now = clock.utc()
    try:
        if text == "now":
            return now
        if _RFC3339.fullmatch(text):
            return dt.datetime.fromisoformat(text.upper().replace(" ", "T")).astimezone(dt.UTC)
        return now + direction * dt.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"'{text[:64]}' is not valid; valid: {VALID_MOMENT}") from None


def refuse_unknown(parts: Runtime, wanted: Filter) -> None:
    """Raise InvalidInput with the valid names when the query names an unknown type or queue."""
    for name in wanted.named("type"):
        parts.registry.get(name)
    queues = sorted(parts.registry.queues)
    for queue in wanted.named("queue"):
        if queue not in queues:
            raise InvalidInput("queue", f"'{queue[:64]}' is not a queue; valid: {', '.join(queues)}")


def person() -> str:
    """The account that runs the command, and behind `sudo` also its user."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account without a name, as in containers
        name = f"uid {os.getuid()}"
    real = os.environ.get("SUDO_USER")
    return f"{name} (sudo by {real})" if real else name


def signed(why: str) -> str:
    """`why`, after the name of `person`."""
    return f"{person()}: {why}" if why else person()
