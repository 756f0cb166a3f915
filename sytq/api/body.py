"""Request bodies: JSON in, a dict out, or a 4xx that names what is wrong.

A body is one JSON object in UTF-8 without duplicate keys, NaN, numbers beyond a float or lone surrogates.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from itertools import chain
from typing import Any

import falcon.asgi

from sytq.errors import InvalidInput

#: Levels of nested objects and arrays.
_MAX_DEPTH = 64
_MAX_ID = 2**63 - 1
_CONTAINERS = (dict, list)
_KINDS: dict[type, str] = {
    **{bool: "a boolean", int: "a number", float: "a number with a fraction or an exponent"},
    **{str: "a string", list: "an array"},
}


def read_object(req: falcon.asgi.Request, *, required: bool = True) -> dict[str, Any]:
    """Return the JSON object of a request; unless required, a missing body is an empty object.

    Raises InvalidInput, HTTPUnsupportedMediaType.
    """
    data: bytes = req.scope["sytq.body"]  # read by RequestContext
    if not data and not required:
        return {}
    if req.content_type is not None:
        _check_content_type(req.content_type)
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the object in `data`. Raises InvalidInput."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("body", f"not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise InvalidInput("body", "empty; a JSON object is needed")
    value = decoded(text)
    if not isinstance(value, dict):
        raise InvalidInput("body", "a JSON object is needed")
    # A flat body without escaped characters needs no check of every value.
    if b"\\u" in data or (data.count(b"{") + data.count(b"[") > _MAX_DEPTH and _deeper(value, _MAX_DEPTH)):
        check_values(value)
    return value


def decoded(text: str) -> Any:
    """Return the JSON value in a text, whose strings and depth are not checked. Raises InvalidInput."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidInput("body", f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise InvalidInput("body", f"nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:  # a number with thousands of digits
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput("body", "not JSON: a number is too long") from None


def text(fields: dict[str, Any], name: str, *, max_length: int | None = None, required: bool = False) -> str | None:
    """Return a string field; absent, null and, unless required, empty are None. Raises InvalidInput."""
    value = fields.get(name)
    if value is None or (value == "" and not required):
        if required:
            raise InvalidInput(name, "required")
        return None
    if not isinstance(value, str):
        raise InvalidInput(name, f"must be a string, not {_kind(value)}")
    if required and not value.strip():
        raise InvalidInput(name, "must not be empty")
    if max_length is not None and len(value) > max_length:
        raise InvalidInput(name, f"longer than {max_length} characters")
    if "\x00" in value:
        raise InvalidInput(name, "must not contain NUL characters")
    return value


def record_id(fields: dict[str, Any], name: str) -> int:
    """Return a field with a signed 64 bit integer other than 0. Raises InvalidInput."""
    value = fields.get(name)
    if value is None:
        raise InvalidInput(name, "required")
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(name, f"must be an integer, not {_kind(value)}")
    if value == 0 or not -_MAX_ID - 1 <= value <= _MAX_ID:
        raise InvalidInput(name, "must be a signed 64 bit integer and not 0")
    return value


@lru_cache(maxsize=100)
def _check_content_type(content_type: str) -> None:
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    # PHP's curl declares a form by default.
    forgiven = kind == "application/x-www-form-urlencoded"
    if not forgiven and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Type: {kind[:80]!r} is not supported; send application/json"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise falcon.HTTPUnsupportedMediaType(
                description=f"Content-Type: charset {value[:40]!r} is not supported; send UTF-8"
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidInput(_shown(name), "the key occurs twice in one object")
            seen.add(name)
    return fields


def _no_constant(word: str) -> Any:
    raise InvalidInput("body", f"{word} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # JSON has no infinity
        raise InvalidInput("body", f"the number '{text[:64]}' is too large")
    return number


def _deeper(value: dict[str, Any] | list[Any], levels: int) -> bool:
    """Whether a value has more than this many levels of objects and arrays, itself included."""
    level = [value]
    for _ in range(levels):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for each in chain.from_iterable(inner) if type(each) in _CONTAINERS]
        if not level:
            return False
    return True


def check_values(value: object, where: str = "", depth: int = 0) -> None:
    """Refuse depth, lone surrogates and infinity, which a parser accepts but UTF-8, JSON or a database does not."""
    if depth > _MAX_DEPTH:
        raise InvalidInput(where or "body", f"nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidInput(where or "body", "contains half of a surrogate pair") from None
    elif isinstance(value, dict):
        for name, inner in value.items():
            path = f"{where}.{_shown(name)}" if where else _shown(name)
            check_values(name, path, depth)
            check_values(inner, path, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            check_values(inner, where, depth + 1)
    elif isinstance(value, float) and math.isinf(value):
        raise InvalidInput(where or "body", "the number is too large")


def _shown(name: str) -> str:
    """Format a caller's key for a message."""
    return name[:64].encode("utf-8", "backslashreplace").decode()


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "an object")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
