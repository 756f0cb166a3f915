"""Blocks: what a plugin shows on the dashboard, as data. The dashboard renders them; no text in them is ever HTML.

Only a bounded part of a block is rendered: of a long table its first rows, of a long text its beginning.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from sytq.durations import format_duration


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of a currency, such as `Money(Decimal("0.0042"), "USD")`."""

    amount: Decimal | float
    currency: str

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time in seconds."""

    seconds: float

    def __str__(self) -> str:
        return format_duration(self.seconds)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes."""

    bytes: int

    def __str__(self) -> str:
        return f"{self.bytes} bytes"


@dataclass(frozen=True, slots=True)
class State:
    """The state of a task or a limiter, such as `State("dead")`; the dashboard gives each a colour beside its name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a page of the dashboard (`to` begins with "/", such as "/tasks/<id>") or to an http or https URL.

    Any other `to` is shown as text. `parameters` are added to a dashboard page's query, `current` marks the link that
    the reader has followed.
    """

    text: str
    to: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    current: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Input:
    """A line of text that an `Action` asks for."""

    name: str
    label: str
    value: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Action:
    """A button that POSTs to an action of a plugin's page; callers without the scope `operate` do not see it.

    `path` is "/x/<plugin>/<page>/<action>", `values` are sent to it, and `inputs` are asked for before. With `confirm`
    the reader has to confirm that sentence.
    """

    label: str
    path: str
    values: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Input] = ()
    confirm: str = ""

    def __str__(self) -> str:
        return self.label


#: A value in a table or beside a name. A `datetime` without a zone is in UTC; None is an empty cell.
Cell: TypeAlias = (
    str | int | float | bool | Decimal | dt.datetime | Money | Duration | Size | State | Link | Action | None
)


@dataclass(frozen=True, slots=True)
class Fields:
    """Values by their names; those that are None are left out."""

    values: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `empty` is shown instead of a table without rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "Nothing to show."


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A text whose spaces and lines matter; `language` is named beside it."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Markdown:
    """CommonMark with tables; HTML in it is shown as text, images by their description, and other links than http,
    https and mailto as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value, with what is secret by its name or form masked."""

    value: Any


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over time: for each of `times` a number (or None) in each of `series`."""

    title: str
    times: Sequence[dt.datetime]
    series: Mapping[str, Sequence[float | None]]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Links:
    """Links of one purpose beside each other, such as the periods that a page can show."""

    label: str
    links: Sequence[Link]


Block: TypeAlias = Fields | Table | Text | Code | Markdown | Json | Chart | Links | Action
BLOCKS = (Fields, Table, Text, Code, Markdown, Json, Chart, Links, Action)


def checked(found: object) -> Sequence[Block]:
    """Return what a plugin's function returned, a list of blocks. Raises TypeError for anything else."""
    if not isinstance(found, list | tuple):
        raise TypeError(f"returned {type(found).__name__}; valid: a list of blocks")
    for each in found:
        if not isinstance(each, BLOCKS):
            valid = ", ".join(kind.__name__ for kind in BLOCKS)
            raise TypeError(f"returned a list with {type(each).__name__}; valid: {valid}")
    return found
