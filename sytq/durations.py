"""Durations as people and Go programs write them: `30s`, `1m30s`, `200ms`, or plain seconds."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

VALID_DURATION = "a duration such as 200ms, 30s, 1m30s or 24h, or a number of seconds"

#: In nanoseconds, so that sums are exact ("1m0.1s" is 60.1). Both code points of the micro sign, as in Go.
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\N{MICRO SIGN}s": 10**3,
    "\N{GREEK SMALL LETTER MU}s": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", re.ASCII)
_PART = re.compile(rf"({_NUMBER.pattern})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)
#: About 300 years, the maximum of Go; later dates cannot be computed.
_LONGEST = 292 * 365.25 * 86400


def parse_duration(value: object) -> float:
    """Return seconds for `1m30s`, `200ms`, `1.5h`, `30` or a number of seconds; ValueError otherwise."""
    try:
        return _seconds(value)
    except ValueError as error:
        raise ValueError(f"duration {value!r} is not valid: {error}; valid: {VALID_DURATION}") from None


def _seconds(value: object) -> float:
    if isinstance(value, str):
        text = value.strip().removeprefix("+")
        if text.startswith("-"):
            raise ValueError("negative")
        seconds = float(text) if _NUMBER.fullmatch(text) else _sum_of_parts(text)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            raise ValueError("too long") from None
    else:
        raise ValueError("not a duration")
    if math.isnan(seconds):
        raise ValueError("not a duration")
    if seconds < 0:
        raise ValueError("negative")
    if seconds > _LONGEST:
        raise ValueError("too long")
    return seconds


def _sum_of_parts(text: str) -> float:
    position, total = 0, 0.0
    while part := _PART.match(text, position):
        total += float(part[1]) * _NANOSECONDS[part[2]]
        position = part.end()
    if position != len(text) or not text:
        raise ValueError("not a duration")
    return total / 10**9


def format_duration(seconds: float) -> str:
    """Write seconds as Go does: `1h30m45s`, `24h0m0s`, `1.5s`, `200ms`, `0s`; exact to the nanosecond."""
    left = round(abs(seconds) * 10**9)
    sign = "-" if seconds < 0 and left else ""
    if left == 0:
        return "0s"
    for unit, size in (("ns", 1), ("\N{MICRO SIGN}s", 10**3), ("ms", 10**6)):
        if left < size * 1000:
            return f"{sign}{_decimal(left, size)}{unit}"
    hours, left = divmod(left, _NANOSECONDS["h"])
    minutes, left = divmod(left, _NANOSECONDS["m"])
    text = f"{_decimal(left, 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(count: int, size: int) -> str:
    """Write count/size without trailing zeros; size is a power of ten."""
    whole, rest = divmod(count, size)
    digits = f"{rest:0{len(str(size)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _validate(value: object) -> float:
    try:
        return _seconds(value)
    except ValueError as error:
        raise PydanticCustomError(
            "duration", "{reason}; valid: {valid}", {"reason": str(error), "valid": VALID_DURATION}
        ) from None


#: A pydantic field: seconds as float inside, Go's form in JSON. The bare text is for error messages.
Duration = Annotated[
    float,
    BeforeValidator(_validate),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}], "description": VALID_DURATION},
        mode="validation",
    ),
    VALID_DURATION,
]
