"""Prints the result of a command as a table or as JSON. No cell of a table can control the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sytq.durations import format_duration
from sytq.tasktypes.payload import encode

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


T = TypeVar("T")


def as_json(value: object) -> None:
    typer.echo(encode(value))


def report(json_wanted: bool, outcome: object, text: str) -> None:
    """Print the outcome of a command as JSON or as a line of text."""
    if json_wanted:
        as_json(outcome)
    else:
        typer.echo(text)


def tasks_that(number: int, one: str, more: str) -> str:
    """How many tasks do something, such as "1 task waits" and "2 tasks wait"."""
    return f"1 task {one}" if number == 1 else f"{number} tasks {more}"


def listing(
    json_wanted: bool, found: object, columns: Sequence[str], rows: Iterable[Sequence[object]], after: str | None = None
) -> None:
    """Print what was found as JSON, or as a table; `after` is the cursor of its next page."""
    if json_wanted:
        as_json(found)
        return
    table(columns, rows)
    if after is not None:
        typer.echo(f"There are more; continue with --after {after}", err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table; only the last column wraps. None is an empty cell."""
    shown = Table(box=None, pad_edge=False)
    for column in columns[:-1]:
        shown.add_column(column, no_wrap=True)
    shown.add_column(columns[-1], overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # in a pipe or a file, one line per row, whatever its length
    console.print(shown)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A progress bar on standard error, shown only on a terminal."""
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def stepwise(items: Sequence[T], json_wanted: bool) -> Iterator[T]:
    """Yield `items` and show how far they are: with a progress bar on a terminal, or a line of JSON a second."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

    due = time.monotonic() + 1.0
    with progress_bar(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bar:
        shown = bar.add_task("", total=len(items))
        for done, item in enumerate(items):
            if json_wanted and time.monotonic() >= due:
                as_json({"progress": {"done": done, "of": len(items)}})
                due = time.monotonic() + 1.0
            yield item
            bar.advance(shown)


def cell(value: object) -> str:
    """A value as one line of printable characters: a task's contents may come from anybody."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text)


def age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return format_duration(round(seconds, 1) if seconds < 60 else round(seconds))
