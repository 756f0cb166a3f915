"""A plugin's blocks as blocks.html renders them: bounded, secrets masked, links and paths checked."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from sytq import blocks
from sytq.api.dashboard import filters, markdown
from sytq.config.masking import MASK, is_secret_key, mask_text, masked

_MAX_BLOCKS, _MAX_ROWS, _MAX_COLUMNS, _MAX_FIELDS, _MAX_POINTS, _MAX_SERIES = 50, 200, 20, 100, 1000, 8
_MAX_CELL, _MAX_TEXT = 500, 20_000
_MAX_DEPTH, _MAX_ITEMS = 20, 500
_ACTION_PATH = re.compile(r"/x/[a-z][a-z0-9_]*/[a-z][a-z0-9-]*/[a-z][a-z0-9-]*")


class Shown(NamedTuple):
    """A block or a cell; `kind` names its macro in blocks.html, `more` is what was left out."""

    kind: str
    value: Any
    more: str = ""


def shown(found: Sequence[blocks.Block], level: int = 2) -> list[Shown]:
    """The blocks for the template; `level` is that of their highest heading."""
    made = [_block(block, level) for block in found[:_MAX_BLOCKS]]
    more = _more(len(found), _MAX_BLOCKS, "blocks")
    return [*made, Shown("paragraph", "", more)] if more else made


def _block(block: blocks.Block, level: int) -> Shown:
    match block:
        case blocks.Fields():
            return _fields(block)
        case blocks.Table():
            return _table(block)
        case blocks.Chart():
            return _chart(block)
        case blocks.Action():
            return _action(block)
        case blocks.Json():
            return json_text(block.value)
        case blocks.Links():
            links = [_link(link) for link in block.links[:_MAX_FIELDS]]
            return Shown("links", {"label": _line(block.label), "links": links})
        case blocks.Markdown():
            more = _more(len(block.text), markdown.MAX_LENGTH, "characters")
            return Shown("markdown", markdown.render(mask_text(block.text[: markdown.MAX_LENGTH]), level), more)
    text, more = mask_text(block.text[:_MAX_TEXT]), _more(len(block.text), _MAX_TEXT, "characters")
    if isinstance(block, blocks.Code):
        return Shown("code", {"text": text, "language": _line(block.language)}, more)
    return Shown("paragraph", text, more)


def cell(value: blocks.Cell) -> Shown:
    if value is None:
        return Shown("text", "")
    if isinstance(value, bool):
        return Shown("text", "yes" if value else "no")
    if isinstance(value, int | float | Decimal):
        return Shown("number", filters.number(_plain(value))) if math.isfinite(value) else Shown("text", str(value))
    if isinstance(value, dt.datetime):
        return Shown("time", _utc(value))
    if isinstance(value, blocks.Money):
        return Shown("number", _money(value))
    if isinstance(value, blocks.Duration):
        return Shown("number", filters.duration(value.seconds))
    if isinstance(value, blocks.Size):
        return Shown("number", filters.size(value.bytes))
    if isinstance(value, blocks.State):
        return Shown("state", _line(value.name)[:64])
    if isinstance(value, blocks.Link):
        return _link(value)
    if isinstance(value, blocks.Action):
        return _action(value)
    return Shown("text", _line(value))


def json_text(value: object) -> Shown:
    """A JSON value as text: secrets masked, what is deep, long or wide cut."""
    left = [_MAX_TEXT]
    text = json.dumps(masked("", _pruned(value, _MAX_DEPTH, left)), ensure_ascii=False, indent=2)
    return Shown("code", {"text": text, "language": ""}, "" if left[0] > 0 else "The value is longer.")


def _pruned(value: object, depth: int, left: list[int]) -> object:
    """The beginning of a value: `left` is the number of characters that may still be shown."""
    left[0] -= 4
    if isinstance(value, str):
        kept = value[: max(left[0], 0)]
        left[0] -= len(kept) + (len(kept) < len(value))
        return kept if len(kept) == len(value) else f"{kept}…"
    if isinstance(value, Mapping | list | tuple) and value and (depth == 0 or left[0] <= 0):
        left[0] = min(left[0], 0)
        return "…"
    if isinstance(value, Mapping):
        some = list(value.items())[:_MAX_ITEMS]
        more = {"…": f"{len(value) - _MAX_ITEMS} more"} if len(value) > _MAX_ITEMS else {}
        return {_line(name): _pruned(inner, depth - 1, left) for name, inner in some} | more
    if isinstance(value, list | tuple):
        rest = [f"… {len(value) - _MAX_ITEMS} more"] if len(value) > _MAX_ITEMS else []
        return [_pruned(inner, depth - 1, left) for inner in value[:_MAX_ITEMS]] + rest
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:_MAX_CELL]


def _fields(block: blocks.Fields) -> Shown:
    given = {_line(name): value for name, value in block.values.items() if value is not None}
    kept = [
        (name, Shown("text", MASK) if is_secret_key(name) else cell(value))
        for name, value in list(given.items())[:_MAX_FIELDS]
    ]
    return Shown("fields", kept, _more(len(given), _MAX_FIELDS, "fields"))


def _table(block: blocks.Table) -> Shown:
    rows = [[cell(value) for value in row[:_MAX_COLUMNS]] for row in block.rows[:_MAX_ROWS]]
    columns = [
        (_line(name), any(row[n].kind == "number" for row in rows if n < len(row)))
        for n, name in enumerate(block.columns[:_MAX_COLUMNS])
    ]
    value = {"caption": _line(block.caption), "columns": columns, "rows": rows, "empty": _line(block.empty)}
    return Shown("table", value, _more(len(block.rows), _MAX_ROWS, "rows"))


def _chart(block: blocks.Chart) -> Shown:
    series = [
        {"label": _line(name), "values": [_plain(value) for value in values[-_MAX_POINTS:]], "kind": ""}
        for name, values in list(block.series.items())[:_MAX_SERIES]
    ]
    times = [_utc(at).replace(tzinfo=dt.UTC).timestamp() for at in block.times[-_MAX_POINTS:]]
    if any(len(one["values"]) != len(times) for one in series):
        raise ValueError("a chart needs a value in each series for each of its times")
    unit = f" {_line(block.unit)}" if block.unit else ""
    return Shown("chart", {"label": _line(block.title), "times": times, "series": series, "unit": unit})


def _link(link: blocks.Link) -> Shown:
    text = _line(link.text)
    if link.to.startswith("/"):
        query = urlencode({name: str(value) for name, value in link.parameters.items()})
        to = f"{link.to}{'&' if '?' in link.to else '?'}{query}" if query else link.to
        return Shown("link", {"text": text, "path": to, "current": link.current})
    return Shown("away", {"text": text, "url": link.to}) if _is_web(link.to) else Shown("text", text)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return url.lower().startswith(("http://", "https://")) and bool(parts.hostname) and parts.username is None


def _action(action: blocks.Action) -> Shown:
    if not _ACTION_PATH.fullmatch(action.path):
        raise ValueError(f"'{action.path[:100]}' is not the path of an action; valid: /x/<plugin>/<page>/<action>")
    value = {
        "label": _line(action.label),
        "path": action.path,
        "values": {str(name): str(value) for name, value in action.values.items()},
        "inputs": action.inputs[:_MAX_FIELDS],
        "confirm": _line(action.confirm),
    }
    return Shown("action", value)


def _more(count: int, most: int, what: str) -> str:
    return f"The first {most:,} of {count:,} {what} are shown." if count > most else ""


def _line(value: object) -> str:
    text = str(value)[: 4 * _MAX_CELL]
    line = mask_text(" ".join(text.split()))
    return line if len(line) <= _MAX_CELL else f"{line[:_MAX_CELL]}…"


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _utc(at: dt.datetime) -> dt.datetime:
    return at.astimezone(dt.UTC).replace(tzinfo=None) if at.tzinfo else at


def _money(money: blocks.Money) -> str:
    amount = float(money.amount)
    if money.currency == "USD":
        return filters.money(amount)
    return f"{filters.money(amount).removeprefix('$')} {_line(money.currency)}"
