"""Parses the headers and sentences in which providers ask for a delay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sytq.durations import parse_duration

#: Seconds; a provider can cause neither a busy loop nor an endless wait.
_SHORTEST, _LONGEST = 0.05, 86400.0
_SAID = re.compile(
    r"\b(?:try again|retry) (?:in|after) "
    r"(?:([0-9]+(?:\.[0-9]+)?) ?(second|minute|hour)|((?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+))",
    re.IGNORECASE,
)
_UNITS = {"second": 1, "minute": 60, "hour": 3600}
_RESET = re.compile(r"(x-)?ratelimit-reset(-\w+)?|anthropic-ratelimit-\w+-reset")


def asked_delay(headers: Mapping[str, str], now: datetime) -> float | None:
    """The delay in seconds, within bounds, or None when no header asks for one.

    `retry-after-ms` takes precedence over `Retry-After` (seconds or a date), and both over the resets of rate limits.
    Of these the latest counts; a limit with room left (`...remaining...` above 0) is ignored.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    seconds = _number(lower.get("retry-after-ms", ""))
    seconds = _seconds(lower.get("retry-after", ""), now) if seconds is None else seconds / 1000
    if seconds is None:
        resets = [_seconds(value, now) for name, value in lower.items() if _RESET.fullmatch(name)
                  and lower.get(name.replace("reset", "remaining"), "0") == "0"]  # fmt: skip
        seconds = max((reset for reset in resets if reset is not None), default=None)
    return None if seconds is None else _bounded(seconds)


def said_delay(message: str) -> float | None:
    """The delay in seconds that an error's text asks for, as in "Please try again in 1m26.4s", or None."""
    if (found := _SAID.search(message)) is None:
        return None
    number, unit, duration = found.groups()
    return _bounded(parse_duration(duration.lower()) if duration else float(number) * _UNITS[unit.lower()])


def _bounded(seconds: float) -> float:
    return min(max(seconds, _SHORTEST), _LONGEST)


def _seconds(value: str, now: datetime) -> float | None:
    """Convert seconds, `1s`, `6m0s`, `120ms`, unix seconds or milliseconds, an HTTP or ISO 8601 date to seconds from
    now."""
    seconds = _number(value)
    if seconds is not None:
        unix = seconds / 1000 if seconds > 1e11 else seconds
        return unix - now.timestamp() if unix > 1e9 else seconds
    try:
        return parse_duration(value)
    except ValueError:
        moment = _moment(value)
        return None if moment is None else (moment - now).total_seconds()


def _number(value: str) -> float | None:
    return float(value) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]*)?", value, re.ASCII) else None


def _moment(value: str) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(value)
        except (ValueError, OverflowError):
            continue
        return moment.replace(tzinfo=moment.tzinfo or UTC)
    return None
