"""Values of the ledger's columns: times as naive UTC, and JSON text."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

from sytq import clock

_EPOCH = dt.datetime(1970, 1, 1)


def utcnow() -> dt.datetime:
    return naive(clock.utc())


def naive(moment: dt.datetime) -> dt.datetime:
    """Convert an aware time to naive UTC."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)


def from_ms(ms: int) -> dt.datetime:
    """Unix milliseconds (Redis' clock) as naive UTC."""
    return _EPOCH + dt.timedelta(milliseconds=ms)  # takes half as long as `fromtimestamp`


def to_ms(moment: dt.datetime) -> int:
    """A row's time as unix milliseconds; rows of other programs may have an offset."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def floor(moment: int, span: int) -> int:
    """The begin of the span in which a moment lies, both in seconds."""
    return moment - moment % span


def iso(moment: dt.datetime | float) -> str:
    """A time of the ledger, or of Redis (unix seconds), in RFC 3339 to the millisecond."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime.fromtimestamp(moment, dt.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def plain(value: Any) -> Any:
    """A value as both databases store it."""
    return value.isoformat(" ", "microseconds") if isinstance(value, dt.datetime) else value


def whole_second(seconds: int) -> str:
    """Unix seconds as a bound for times of both databases: as text it is below that second with any digits behind."""
    return from_ms(seconds * 1000).isoformat(" ", "seconds")


def parsed(text: str | None) -> Any:
    """The value of a JSON column; text of another program that is not JSON stays text."""
    try:
        return None if text is None else json.loads(text, parse_constant=str, parse_float=_float)
    except (ValueError, RecursionError):
        return text


def _float(text: str) -> float | str:
    """A number, or its text where no float has its value, as JSON could not repeat it."""
    number = float(text)
    return text if math.isinf(number) else number
