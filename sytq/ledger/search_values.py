"""The names and values of the search index: what a task is found by, in one form for all that a query takes for equal.

The index only narrows: a value may have the form of another one, as the condition of the query is checked on each row.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from sytq.ledger.query.fields import STEP
from sytq.ledger.query.parse import Term
from sytq.ledger.query.sql import INTEGERS, REALS

#: Every task has an entry of this name, with an empty value where it has no owner: it says that the task is indexed.
OWNER = "owner"
#: All keys of the metadata with a scalar value.
METADATA = "metadata"
#: Length of a name, and of a value that is kept as it is; a longer value is cut, and its hash tells it apart.
MAX_NAME, MAX_VALUE = 128, 80
_KEY = re.compile(STEP)
#: Whole numbers up to here are the same as floating point.
_EXACT = 2.0**53
_LARGEST = 1.7976931348623157e308


def _first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a name that is there twice the first value, as the databases read it."""
    return dict(reversed(pairs))


_DECODER = json.JSONDecoder(parse_int=float, object_pairs_hook=_first)


def name_of(term: Term) -> str | None:
    """The name of the entries that narrow a term; None where entries cannot."""
    if term.negated or term.operator != "=" or not term.values:
        return None
    if term.field == OWNER:
        return OWNER
    if term.field == "payload" or (term.field == METADATA and len(term.path) == 1):
        return ".".join((term.field, *term.path))
    return None


def values_of(term: Term) -> set[str]:
    """The values of entries that may match a term."""
    found = {kept(value.text) for value in term.values}
    for value in term.values:
        if not value.quoted and isinstance(value.read, int | float) and not isinstance(value.read, bool):
            found.add(_number(value.read))
    return found


def stored(kind: str | None, text: Any) -> str | None:
    """The value of the entry for a JSON value as the database says it; None for one that no query finds."""
    if kind in ("STRING", "TEXT"):
        return kept(str(text))
    if kind in ("TRUE", "FALSE", "NULL"):
        return kind.lower()
    if kind == "BOOLEAN":
        return str(text)
    return _number(float(text)) if kind in INTEGERS or kind in REALS else None


def metadata_entries(text: str | None) -> dict[str, str]:
    """The entries, by name, for a task's metadata; none where another program wrote no JSON object."""
    try:
        found = _DECODER.decode(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {
        f"{METADATA}.{key}": _scalar(value)
        for key, value in (found.items() if isinstance(found, dict) else ())
        if not isinstance(value, dict | list) and _KEY.fullmatch(key)
    }


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return kept(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _number(value)


def kept(text: str) -> str:
    """A text as an entry has it."""
    raw = text.encode(errors="replace")
    if len(text) <= MAX_VALUE:
        return raw.decode()
    return f"{raw.decode()[: MAX_VALUE - 40]}#{hashlib.sha256(raw).hexdigest()}"


def _number(value: float) -> str:
    try:
        number = max(-_LARGEST, min(_LARGEST, float(value)))
    except OverflowError:
        number = _LARGEST if value > 0 else -_LARGEST
    if number.is_integer():
        return str(int(number)) if abs(number) <= _EXACT else f"{number:.17g}"
    return f"{number:.15g}"  # not the last digits, which databases read differently
