"""Parses a query: terms that must all hold, `field:value`, `-` in front for "not", commas between values for "any"."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import Any

from sytq.errors import InvalidQuery
from sytq.ledger.query.fields import FIELDS, NESTED, STEP, read_json, read_moment, read_number, read_word, valid_fields
from sytq.states import STATES

LONGEST = 2000
_TERMS, _VALUES = 40, 200
_NAME = re.compile(r"[A-Za-z_]+")
_STEP = re.compile(rf"\.({STEP})")
_OPERATOR = re.compile(r":(>=|<=|>|<|)")
_BARE = re.compile(r"[^\x00-\x20\x7f,\"]+")
_QUOTED = re.compile(r"\"((?:[^\"\\\x00-\x1f]|\\[\"\\])*)\"")
_WORD = re.compile(r"[^\x00-\x20\x7f,\":<>=()]+(?=[ \t\r\n]|$)")
#: What separates terms; other space is part of a value.
_BLANKS = " \t\r\n"
_SPACE = re.compile(f"[{_BLANKS}]*")


#: The field of a term that is a value alone: the id of a task, or a value of any field that is indexed.
ALONE = "any"


@dataclass(frozen=True, slots=True)
class Value:
    """A value to compare with. `read` is the text converted to the field's kind; quoted text is a string."""

    text: str
    quoted: bool
    read: Any


@dataclass(frozen=True, slots=True)
class Term:
    """One condition: the field (with the `path` below it) compares by `operator` to any of `values`.

    `operator` is "=", "<", "<=", ">" or ">="; without values the condition is that the field is set.
    """

    field: str
    path: tuple[str, ...]
    operator: str
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Terms that must all hold. Relative times count from `now` (naive UTC); None: from the database's clock."""

    text: str = ""
    terms: tuple[Term, ...] = ()
    now: dt.datetime | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """The states that the filter admits."""
        left = set(STATES)
        for term in self.terms:
            if term.field == "state" and term.values:
                named = {value.read for value in term.values}
                left = left - named if term.negated else left & named
        return tuple(state for state in STATES if state in left)

    @property
    def needs_now(self) -> bool:
        """Whether the filter has a relative time, and no `now`."""
        return self.now is None and any(
            isinstance(value.read, dt.timedelta) for term in self.terms for value in term.values
        )

    def named(self, field: str) -> tuple[str, ...]:
        """The values that the filter requires of a word field."""
        return tuple(v.text for term in self.terms if term.field == field and not term.negated for v in term.values)

    def at(self, now: dt.datetime) -> Filter:
        """The same filter, with relative times counted from `now` (naive UTC)."""
        return replace(self, now=now)

    def owned_by(self, owner: str) -> Filter:
        """This filter, restricted to one owner's tasks."""
        return replace(self, terms=(*self.terms, Term("owner", (), "=", (Value(owner, True, owner),))))

    def within(self, query: str) -> Filter:
        """This filter with another query's terms added."""
        other = parse(query)
        return replace(self, text=f"{self.text} {query}".strip(_BLANKS), terms=self.terms + other.terms)


def parse(text: str) -> Filter:
    """Return the filter; an empty text matches all tasks. Raises InvalidQuery."""
    if len(text) > LONGEST:
        raise InvalidQuery(LONGEST, f"longer than {LONGEST} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidQuery(error.start, "half of a surrogate pair") from None
    return _Reader(text).filter()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def filter(self) -> Filter:
        terms: list[Term] = []
        self._skip()
        while self._at < len(self._text):
            if len(terms) == _TERMS:
                raise InvalidQuery(self._at, f"more than {_TERMS} terms")
            before = self._at
            terms.append(self._term())
            after = self._at
            self._skip()
            if after == self._at < len(self._text):
                raise InvalidQuery(self._at, f"a space is needed behind '{self._text[before:after][:64]}'")
        return Filter(self._text.strip(_BLANKS), tuple(terms))

    def _term(self) -> Term:
        negated = self._text.startswith("-", self._at)
        self._at += negated
        start = self._at
        field, path = self._field()
        operator = _OPERATOR.match(self._text, self._at)
        if operator is None and not negated and (alone := self._alone(start)):
            return Term(ALONE, (), "=", (alone,))
        if operator is None:
            word = self._text[start:].split()[:1]
            raise InvalidQuery(start, f"'{''.join(word)[:64]}' says no field; write field:value, as in state:dead")
        if path is None:
            raise InvalidQuery(start, f"'{field[:64]}' is not a field; valid: {valid_fields()}")
        self._at = operator.end()
        return Term(field, path, operator[1] or "=", self._values(field, operator[1]), negated)

    def _alone(self, start: int) -> Value | None:
        """A value without a field, if there is one. Refuses the names of fields, as their values are missing."""
        quoted, word = _QUOTED.match(self._text, start), _WORD.match(self._text, start)
        if quoted is not None and quoted[1]:
            self._at = quoted.end()
            text = _unescaped(quoted[1])
            return Value(text, True, text)
        if word is None or word[0] == "*":
            return None
        name = word[0][:64]
        if word[0] in FIELDS or word[0].partition(".")[0] in NESTED:
            raise InvalidQuery(
                start, f"'{name}' is a field; write {name}:value, or \"{name}\" for tasks with this value"
            )
        self._at = word.end()
        return Value(word[0], False, read_json(word[0]))

    def _field(self) -> tuple[str, tuple[str, ...] | None]:
        """The field and the path below it; the path is None for an unknown field."""
        start = self._at
        name = _NAME.match(self._text, start)
        self._at = name.end() if name else start
        path: list[str] = []
        while step := _STEP.match(self._text, self._at):
            path.append(step[1])
            self._at = step.end()
        field = name[0] if name else ""
        if (field in FIELDS and not path) or (field in NESTED and path):
            return field, tuple(path)
        return self._text[start : self._at], None

    def _values(self, field: str, operator: str) -> tuple[Value, ...]:
        values: list[Value] = []
        while True:
            start = self._at
            values.append(self._value(field, operator))
            if len(values) > _VALUES:
                raise InvalidQuery(start, f"{field}: more than {_VALUES} values")
            if not self._text.startswith(",", self._at):
                break
            if operator:
                raise InvalidQuery(self._at, f"{field}: one value is compared with {operator}, not several")
            self._at += 1
        if any(value.text == "*" and not value.quoted for value in values):
            if operator or len(values) > 1:
                raise InvalidQuery(start, f"{field}: * stands alone, as in {field}:*")
            return ()
        return tuple(values)

    def _value(self, field: str, operator: str) -> Value:
        start = self._at
        quoted = _QUOTED.match(self._text, start)
        found = quoted or _BARE.match(self._text, start)
        if found is None:
            broken = self._text.startswith('"', start)
            said = "the text has no closing quote, or a control character in it" if broken else "a value is needed"
            raise InvalidQuery(start, f"{field}: {said}")
        self._at = found.end()
        text = _unescaped(quoted[1]) if quoted else found[0]
        if text == "*" and not quoted:
            return Value(text, False, text)
        try:
            return Value(text, quoted is not None, _read(field, text, quoted is not None, operator))
        except ValueError as error:
            raise InvalidQuery(start, f"{field}: {error}") from None

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _read(field: str, text: str, quoted: bool, operator: str) -> Any:
    kind = FIELDS.get(field, "json")
    if kind == "json":
        value = text if quoted else read_json(text)
        if operator and (value is None or isinstance(value, bool)):
            raise ValueError(f"{text} has no order; write {field}.<field>:{text}")
        return value
    if operator and kind in ("word", "text", "flag"):
        raise ValueError(f"it has no order; write {field}:{text[:64]}")
    if kind in ("word", "flag"):
        return read_word(field, text)
    if kind == "text":
        if not text:
            raise ValueError("a part of the text is needed")
        return text
    if kind == "number":
        return read_number(text)
    moment = read_moment(field, text)
    if not operator and not (isinstance(moment, dt.date) and not isinstance(moment, dt.datetime)):
        raise ValueError(f"it is compared with <, <=, > or >=, as in {field}:>{text[:64]}; a day may stand alone")
    return moment
