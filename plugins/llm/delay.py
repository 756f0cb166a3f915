"""How long a provider asks us to wait: the headers in which they say it, and the forms of their times.

Owns reading them. Must not decide whether there is a next call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sytq.durations import parse_duration

#: Seconds; a provider can neither make us spin nor park a task for good.
_SHORTEST, _LONGEST = 0.05, 86400.0
_RESET = re.compile(r"x-ratelimit-reset(-\w+)?|anthropic-ratelimit-\w+-reset")


def asked_delay(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that the headers ask for, within bounds, or None when they ask for nothing that can be read.

    `retry-after-ms` goes before `Retry-After` (seconds or a date), and both before the rate limits' resets, of which
    the latest counts; a reset of a limit that still has room (`...remaining...` above 0) does not.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    seconds = _number(lower.get("retry-after-ms", ""))
    seconds = _seconds(lower.get("retry-after", ""), now) if seconds is None else seconds / 1000
    if seconds is None:
        resets = [_seconds(value, now) for name, value in lower.items() if _RESET.fullmatch(name)
                  and lower.get(name.replace("reset", "remaining"), "0") == "0"]  # fmt: skip
        seconds = max((reset for reset in resets if reset is not None), default=None)
    return None if seconds is None else min(max(seconds, _SHORTEST), _LONGEST)


def _seconds(value: str, now: datetime) -> float | None:
    """Seconds, `1s`, `6m0s`, `120ms`, unix seconds or milliseconds, an HTTP or ISO 8601 date, as seconds from now."""
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
