"""The fields of a query, and their valid values."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from sytq.config.patterns import normal_host
from sytq.durations import VALID_DURATION, parse_duration
from sytq.ledger.values import naive
from sytq.states import NAME, PRIORITIES, STATES

Kind = Literal["word", "text", "number", "moment", "flag", "json"]

#: field -> kind of its values. A word is compared whole, a text by a part of it, a flag is true or false.
FIELDS: dict[str, Kind] = {
    "id": "word",
    "type": "word",
    "queue": "word",
    "priority": "word",
    "state": "word",
    "owner": "word",
    "parent": "word",
    "worker": "word",
    "host": "word",
    "fingerprint": "word",
    "request": "word",
    "unique_key": "word",
    "ordering_key": "word",
    "held": "flag",
    "error": "text",
    "callback_url": "text",
    "attempts": "number",
    "max_attempts": "number",
    "version": "number",
    "age": "moment",
    "created": "moment",
    "scheduled": "moment",
    "started": "moment",
    "finished": "moment",
    "revived": "moment",
}
#: Fields with fields below them, as in payload.order_id.
NESTED: tuple[str, ...] = ("payload", "metadata", "result")

#: One name of such a path.
STEP = r"[^\x00-\x20\x7f.:\"\\\[\]<>=,()]{1,64}"

CHOICES: dict[str, Sequence[str]] = {"state": STATES, "priority": PRIORITIES, "held": ("true", "false")}
#: Words of callers and types, in any script.
_KEYS = ("unique_key", "ordering_key")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_RFC3339 = re.compile(_DATE.pattern + r"[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
VALID_MOMENT = f"{VALID_DURATION}; a date such as 2026-01-31; or a time such as 2026-01-31T12:00:00Z"


def valid_fields() -> str:
    """The valid fields, for a message."""
    return ", ".join([*FIELDS, *(f"{name}.<field>" for name in NESTED)])


def read_word(field: str, text: str) -> str:
    """A value of a word field, or of a flag. Raises ValueError."""
    choices = CHOICES.get(field)
    if choices and text not in choices:
        said = "valid" if field == "held" else f"a {field}"
        raise ValueError(f"'{text[:64]}' is not {said}; valid: {', '.join(choices)}")
    if field in ("type", "queue") and not NAME.fullmatch(text):
        raise ValueError(f"'{text[:64]}' is not a {field}; valid: letters, digits, . _ - (64 at most)")
    script = "" if field in _KEYS else "ASCII "
    if not ((text.isascii() or not script) and text.isprintable() and text == text.strip() and len(text) <= 255):
        raise ValueError(f"'{text[:64]}' is not valid; valid: up to 255 visible {script}characters")
    return normal_host(text) if field == "host" else text


def read_number(text: str) -> int:
    """A whole number from 0. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError(f"'{text[:64]}' is not valid; valid: a whole number from 0")
    return int(text)


def read_moment(field: str, text: str) -> dt.datetime | dt.date | dt.timedelta:
    """A time (naive UTC), a day, or a distance from now. Raises ValueError."""
    try:
        if field != "age" and _DATE.fullmatch(text):
            return _bounded(dt.datetime.fromisoformat(text)).date()
        if field != "age" and _RFC3339.fullmatch(text):
            moment = dt.datetime.fromisoformat(text.upper())
            return _bounded(naive(moment))
        return dt.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        valid = VALID_DURATION if field == "age" else VALID_MOMENT
        raise ValueError(f"'{text[:64]}' is not valid; valid: {valid}") from None


def read_json(text: str) -> Any:
    """Unquoted text as JSON: a number, true, false or null; anything else is a string."""
    if text in ("true", "false", "null"):
        return json.loads(text)
    if _NUMBER.fullmatch(text) and len(text) <= 40:
        number = json.loads(text)
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            return float(number)
        if number in (float("inf"), float("-inf")):
            return text
        return number
    return text


def _bounded(moment: dt.datetime) -> dt.datetime:
    if not 1970 <= moment.year <= 9000:
        raise ValueError("a year that no task has")
    return moment
