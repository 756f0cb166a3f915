"""Completion of a query at the cursor: names of fields, and their values. Reads no store."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sytq.ledger.query.fields import CHOICES, FIELDS, NESTED

#: Suggestions at most: a list that a person reads.
LIMIT = 12
#: Lists values of a field, and of the path below it, that may go on from what is typed.
Known = Callable[[str, tuple[str, ...], str], Iterable[str]]
#: Lists the names below a nested field.
Below = Callable[[str], Iterable[str]]

_TERM = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*(?:"|$))+')
_NAME = re.compile(r'-?([^\s:",<>=()]*)')
_OPERATOR = re.compile(r":(>=|<=|>|<|)")
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|[^\s,"]*')
_PLAIN = re.compile(r'[^\x00-\x20\x7f,"<>=*][^\x00-\x20\x7f,"]*')
_DIGITS = re.compile(r"\d{1,6}", re.ASCII)
_NOTES = {"text": "a part of the text", "number": "a number", "moment": "a time", "flag": "true or false"}
#: Values of kinds whose values nobody lists; a bare one has its operator with it.
_DURATIONS = ("10m", "1h", "24h", "168h")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A text for the place of the completion, and what it is."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What may replace the characters from `start` to `end` of a query, best first."""

    start: int
    end: int
    suggestions: tuple[Suggestion, ...] = ()


def complete(text: str, at: int, known: Known, below: Below, today: dt.date) -> Completion:
    """Complete the query `text` at the cursor `at`.

    Text without a colon is completed to names, and to terms with that value: `dead` to `state:dead`.
    """
    at = max(0, min(at, len(text)))
    term = next((found for found in _TERM.finditer(text) if found.start() <= at <= found.end()), None)
    if term is None:
        return Completion(at, at, _best("", _names(known, below, with_values=False)))
    name = _NAME.match(text, term.start(), term.end())
    assert name is not None, "may be empty"
    if at <= name.end():
        if at < name.start(1):
            return Completion(at, at)
        end = name.end() + text.startswith(":", name.end())
        typed = text[name.start(1) : at]
        return Completion(name.start(1), end, _best(typed, _names(known, below, with_values=end == name.end())))
    operator = _OPERATOR.match(text, name.end(), term.end())
    field, *path = name[1].split(".")
    if operator is None or at < operator.end() or not (field in NESTED if path else field in FIELDS):
        return Completion(at, at)
    start = operator.end()
    while True:
        value = _VALUE.match(text, start, term.end())
        assert value is not None, "may be empty"
        if at <= value.end():
            break
        if not text.startswith(",", value.end()):
            return Completion(at, at)
        start = value.end() + 1
    typed = re.sub(r"\\(.)", r"\1", text[start:at].removeprefix('"'))
    values = _values(field, tuple(path), typed, operator[1], known, today)
    return Completion(start, value.end(), _best(typed, values))


def _names(known: Known, below: Below, *, with_values: bool) -> Iterator[Suggestion]:
    for field, kind in FIELDS.items():
        yield Suggestion(f"{field}:", _NOTES.get(kind, ""))
    for field in NESTED:
        yield Suggestion(f"{field}.", "a field below it")
        yield from (Suggestion(f"{field}.{name}:") for name in below(field))
    if with_values:
        for field in ("state", "type", "queue"):
            values = CHOICES.get(field) or known(field, (), "")
            yield from (Suggestion(f"{field}:{_quoted(value)}", field) for value in values)


def _values(
    field: str, path: tuple[str, ...], typed: str, operator: str, known: Known, today: dt.date
) -> Iterator[Suggestion]:
    kind = FIELDS.get(field, "json")
    if kind == "moment":
        digits = _DIGITS.fullmatch(typed.lstrip("<>="))
        durations = [f"{digits[0]}{unit}" for unit in ("s", "m", "h")] if digits else _DURATIONS
        sign = "" if operator else ">" if typed.startswith(">") else "<"
        ago = "ago or more" if ">" in operator + sign else "ago or less"
        note = "from now" if field == "scheduled" else ago
        yield from (Suggestion(sign + duration, note) for duration in durations)
        if field != "age":
            yield Suggestion(today.isoformat(), "today, UTC")
            yield Suggestion((today - dt.timedelta(days=1)).isoformat(), "yesterday, UTC")
        return
    if kind == "number":
        yield from (Suggestion(number if operator else f">={number}") for number in ("1", "2", "3"))
        return
    if not operator:
        yield from (Suggestion(_quoted(value)) for value in CHOICES.get(field) or known(field, path, typed))
        if not typed and field not in CHOICES:
            yield Suggestion("*", "is set")


def _best(typed: str, offered: Iterable[Suggestion]) -> tuple[Suggestion, ...]:
    """The offers that begin with what is typed and go on, then those that contain it."""
    wanted = typed.casefold()
    begin: dict[str, Suggestion] = {}
    contain: dict[str, Suggestion] = {}
    for suggestion in offered:
        said = suggestion.text.casefold().removeprefix('"')
        if said.startswith(wanted) and said != wanted:
            begin.setdefault(suggestion.text, suggestion)
        elif wanted in said and said != wanted:
            contain.setdefault(suggestion.text, suggestion)
    return (*begin.values(), *contain.values())[:LIMIT]


def _quoted(value: str) -> str:
    """A value as a query has it: quoted where it would end early, or be an operator."""
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
