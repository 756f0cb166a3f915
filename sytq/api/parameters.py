"""Query parameters: one value each, or a 400 that names the parameter."""

from __future__ import annotations

from collections.abc import Collection

import falcon.asgi

from sytq.errors import InvalidInput

_NUMBER_MAX = 2**63 - 1


def only(req: falcon.asgi.Request, names: Collection[str]) -> None:
    """Raise InvalidInput for other parameters than `names`: a misspelt filter must not widen the result."""
    for name in req.params:
        if name not in names:
            raise InvalidInput(name[:64], f"is not a parameter here; valid: {', '.join(names) or 'none'}")


def flag(req: falcon.asgi.Request, name: str) -> bool:
    """A boolean; absent and empty are false. Raises InvalidInput."""
    value = parameter(req, name) or "false"
    if value not in ("true", "false"):
        raise InvalidInput(name, f"{value[:32]!r} is not valid; valid: true, false")
    return value == "true"


def parameter(req: falcon.asgi.Request, name: str) -> str | None:
    """A text; absent and empty are None. Raises InvalidInput."""
    value = req.params.get(name)
    if isinstance(value, list):
        raise InvalidInput(name, "given more than once")
    return value or None


def number(req: falcon.asgi.Request, name: str, default: int, *, min_value: int, max_value: int = _NUMBER_MAX) -> int:
    """A whole number; absent and empty are the default. Raises InvalidInput."""
    value = parameter(req, name)
    if value is None:
        return default
    # isdecimal alone accepts the digits of every script, and int() any length.
    if not (value.isascii() and value.isdecimal() and len(value) <= 19):
        raise InvalidInput(name, f"{value[:32]!r} is not a whole number from {min_value}")
    number = int(value)
    if not min_value <= number <= max_value:
        raise InvalidInput(name, f"{number} is not a whole number from {min_value} to {max_value}")
    return number
