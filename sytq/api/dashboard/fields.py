"""The fields of a form for a JSON value: what each control shows, holds and means."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

#: What an empty control means: the value is left out, null, or empty ("", [] or {}).
Blank = Literal["absent", "null", "empty"]
#: Stands for a value that is left out.
ABSENT: Any = object()

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,999})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


@dataclass(kw_only=True)
class Field:
    """A control, or a group of them.

    `segment` is its part of the path by which the type's model names an error. `ways` are the variants of a union to
    choose from, `blanks` the meanings of an empty control, both as (value, label); empty where there is no choice.
    """

    kind: ClassVar[str]

    name: str
    segment: str
    hint: str = ""
    is_required: bool = True
    ways: Sequence[tuple[str, str]] = ()
    way: str = ""
    blanks: Sequence[tuple[str, str]] = ()
    blank: Blank = "absent"
    errors: list[str] = field(default_factory=list)

    @property
    def parts(self) -> Sequence[Field]:
        """The fields directly below."""
        return ()

    def value(self) -> Any:
        """Return the value as JSON has it; ABSENT when it is left out."""
        raise NotImplementedError

    def place(self, path: str, message: str) -> None:
        """Add an error to the field that `path` leads to from here, as far as it leads."""
        for part in self.parts:
            if path == part.segment or path.startswith(f"{part.segment}."):
                part.place(path[len(part.segment) + 1 :], message)
                return
        _, _, rest = path.partition(".")
        if self.ways and rest:  # an error in a union names the variant first
            self.place(rest, message)
        elif message not in self.errors:
            self.errors.append(message)

    def all(self, above: str = "") -> Iterator[tuple[str, Field]]:
        """Yield this field and every one below, each with its path."""
        path = f"{above}{self.segment}"
        yield path, self
        for part in self.parts:
            yield from part.all(f"{path}.")

    @property
    def numbers(self) -> str:
        """The numbers of the rows below."""
        return " ".join(part.name.rpartition(".")[2] for part in self.parts)

    def _when_blank(self, empty: Any) -> Any:
        return {"absent": ABSENT, "null": None, "empty": empty}[self.blank]


@dataclass(kw_only=True)
class Text(Field):
    kind = "text"

    text: str
    is_long: bool  # a text area
    attributes: dict[str, str]

    def value(self) -> Any:
        return self.text or self._when_blank("")


@dataclass(kw_only=True)
class Number(Field):
    kind = "number"

    text: str
    attributes: dict[str, str]

    @property
    def is_number(self) -> bool:
        """Whether a browser's control for numbers shows the text."""
        return not self.text or is_number(self.text)

    def value(self) -> Any:
        if not self.text:
            return self._when_blank(None)
        return json.loads(self.text) if is_number(self.text) else self.text  # the model says what is wrong with it


@dataclass(kw_only=True)
class Select(Field):
    """`options` are (value as JSON, label); the empty value leaves it out."""

    kind = "select"

    text: str
    options: Sequence[tuple[str, str]]

    def value(self) -> Any:
        return json.loads(self.text) if self.text else ABSENT


@dataclass(kw_only=True)
class Json(Field):
    """Any value, as JSON text; `parsed` is ABSENT when it is left out or cannot be read."""

    kind = "json"

    text: str
    parsed: Any = ABSENT

    def value(self) -> Any:
        return self.parsed


@dataclass(kw_only=True)
class Group(Field):
    """An object with a field for each property, and one for all `others` if it may have such."""

    kind = "group"

    may_be_absent: bool
    is_given: bool
    properties: list[Field] = field(default_factory=list)
    others: Json | None = None

    @property
    def parts(self) -> Sequence[Field]:
        return [*self.properties, self.others] if self.others else self.properties

    def value(self) -> Any:
        if not self.is_given:
            return self._when_blank({})
        found = {each.segment: value for each in self.properties if (value := each.value()) is not ABSENT}
        others = self.others.value() if self.others else ABSENT
        return found if others is ABSENT else {**others, **found}


@dataclass(kw_only=True)
class Rows(Field):
    kind = "rows"

    rows: list[Field]
    is_full: bool

    @property
    def parts(self) -> Sequence[Field]:
        return self.rows

    def value(self) -> Any:
        if not self.rows:
            return self._when_blank([])
        values = [each.value() for each in self.rows]
        return [None if value is ABSENT else value for value in values]


@dataclass(kw_only=True)
class Pairs(Rows):
    """An object with keys of the caller's. The segment of each of its rows is the key."""

    kind = "pairs"

    def value(self) -> Any:
        if not self.rows:
            return self._when_blank({})
        return {each.segment: None if (value := each.value()) is ABSENT else value for each in self.rows}


def is_number(text: str) -> bool:
    """Whether a text is a number as JSON writes it, and within a float's range."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))
