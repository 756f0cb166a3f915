"""Values as people read them. A page must not contain the present time, or every poll would change it."""

from __future__ import annotations

import datetime as dt

from markupsafe import Markup

from sytq.config.masking import mask_text
from sytq.ledger.values import iso

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def time(value: dt.datetime | str | float | None) -> Markup | str:
    """A `<time>` in UTC, which app.js shows as a distance from now. Takes naive UTC, RFC 3339, or unix seconds."""
    if value is None or value == "":
        return "–"
    text = value if isinstance(value, str) else iso(value)
    return Markup('<time datetime="{}">{}</time>').format(text, text[:19].replace("T", " ") + " UTC")


def duration(seconds: float | None) -> str:
    """As `1.2 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def number(value: float | None) -> str:
    """With separators of thousands; a fraction with three digits at most, one below 0.1 with six."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{6 if abs(value) < 0.1 else 3}f}".rstrip("0").rstrip(".")


def size(value: int | None) -> str:
    """Bytes, as `12 KiB`."""
    if value is None:
        return "–"
    amount, unit = float(value), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if amount >= 10 or not unit else f"{amount:.1f} {_UNITS[unit]}"


def money(value: float | None) -> str:
    """US dollars; small amounts with what is left of them."""
    if value is None:
        return "–"
    return f"${value:,.2f}" if value >= 1 or not value else f"${value:.4f}"


FILTERS = {"time": time, "duration": duration, "number": number, "bytes": size, "money": money, "masked": mask_text}
