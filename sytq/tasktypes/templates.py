"""Templates of the configuration: values with places such as `{order_id}`. Must not know a template's purpose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sytq.errors import InvalidInput

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def places(template: Any) -> Iterator[str]:
    """Yield the names of all places in a template."""
    if isinstance(template, dict):
        template = list(template.values())
    if isinstance(template, list):
        for value in template:
            yield from places(value)
    elif isinstance(template, str):
        yield from _PLACE.findall(template)


def text(value: Any) -> str:
    """Format a value inside a text: nothing for null, text as it is, JSON for the rest."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fill(template: Any, fields: Mapping[str, Any], inside: Callable[[Any], str] = text) -> Any:
    """Fill the places of a template; a text of one place becomes the field's value as it is.

    `inside` formats a value within a longer text. Raises InvalidInput naming a missing field.
    """
    if isinstance(template, dict):
        return {key: fill(value, fields, inside) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, fields, inside) for value in template]
    if not isinstance(template, str):
        return template
    whole = _PLACE.fullmatch(template)
    if whole and whole[1] in fields:
        return fields[whole[1]]
    return fill_text(template, fields, inside)


def fill_text(template: str, fields: Mapping[str, Any], inside: Callable[[Any], str] = text) -> str:
    """Fill a text that stays a text, also if it is one place. Raises InvalidInput naming a missing field."""
    for name in places(template):
        if name not in fields:
            raise InvalidInput(name, "missing, and the template has a place for it")
    return _PLACE.sub(lambda place: inside(fields[place[1]]), template)
