"""JSON as Go's encoding/json reads it, for what callers and producers of the replaced systems send.

Keys match in any case, the last of a repeated key counts, what follows the first value is ignored, and what is not
UTF-8 is replaced. New paths are strict: see sytq.api.body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_REPLACEMENT = "\ufffd"
_SPACE = " \t\n\r"
_MAX_DIGITS = 4000  # int() refuses more


def parse(data: bytes) -> Any:
    """Return the value that `data` begins with. A number beyond a float is infinite. Raises ValueError."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = _SURROGATE.sub(_REPLACEMENT, data.decode(errors="surrogateescape"))  # one for each byte, as in Go
    text = text.lstrip(_SPACE)
    if not text:
        raise ValueError("empty; a JSON object is needed")
    try:
        value, _ = _DECODER.raw_decode(text)
        if _ESCAPED_SURROGATE.search(text):  # perhaps half of a pair
            value = json.loads(_SURROGATE.sub(_REPLACEMENT, json.dumps(value, ensure_ascii=False)))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def with_names(value: dict[str, Any], names: Set[str]) -> dict[str, Any]:
    """Return an object whose keys of these names are spelt so. A name that is not there is found in any case."""
    if value.keys() <= names:
        return value
    found: dict[str, Any] = {}
    for key, given in value.items():
        folded = key.casefold()
        found[folded if folded in names and folded not in value else key] = given
    return found


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_number, parse_constant=_no_constant)
