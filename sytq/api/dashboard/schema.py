"""A JSON schema as pydantic writes it: which control a value has in a form, and what is said beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

#: json is a text area for every value that has no better control.
Kind = Literal["text", "number", "select", "group", "rows", "pairs", "json"]
Node = Mapping[str, Any]

#: Hops through `$ref` and levels of unions that are followed.
_MAX_HOPS = 20
_MAX_OPTIONS, _MAX_NAMED = 200, 8
_MAX_SHOWN = 120  # characters of a default
#: What a limit is called; the server alone checks a pattern, as browsers have another dialect.
_RANGES = (("minLength", "maxLength", " characters"), ("minItems", "maxItems", " entries"), ("minimum", "maximum", ""),
           ("minProperties", "maxProperties", " entries"))  # fmt: skip
_LIMITS = {
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "pattern": "matches {}",
    "uniqueItems": "no entry twice",
}
#: Formats of text, none of which is empty, and how they look.
FORMATS = {
    "date": "a date",
    "date-time": "such as 2026-07-01T12:00:00Z",
    "time": "such as 12:00:00Z",
    "duration": "such as PT1H30M",
    "uuid": "a UUID",
    "uri": "a URL",
    "email": "an address",
}
_SCALARS = (str, int, float, bool, type(None))
_WORDS = {"string": "text", "number": "number", "integer": "whole number", "boolean": "yes or no", "array": "list"}


class Schema:
    """The schema of one model. A node is a part of it."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._defs: Node = root.get("$defs", {})

    def variants(self, node: Node, hops: int = 0) -> tuple[list[Node], bool]:
        """Return the nodes of which a value fits one, and whether null fits too."""
        node = self._resolved(node)
        choices = node.get("anyOf") or node.get("oneOf")
        if not choices and isinstance(node.get("type"), list):
            choices = [{**node, "type": each} for each in node["type"]]
        if choices and hops < _MAX_HOPS:
            found: list[Node] = []
            nullable = False
            for choice in choices:
                inner, with_null = self.variants(choice, hops + 1)
                found += inner
                nullable |= with_null
            return found, nullable
        return ([], True) if node.get("type") == "null" else ([node], False)

    def _resolved(self, node: Node) -> Node:
        for _ in range(_MAX_HOPS):
            if "$ref" in node:
                target = self._defs.get(str(node["$ref"]).removeprefix("#/$defs/"), {})
            elif len(node.get("allOf", ())) == 1:
                (target,) = node["allOf"]
            else:
                return node
            node = {**target, **{key: value for key, value in node.items() if key not in ("$ref", "allOf")}}
        return {}


def kind_of(node: Node) -> Kind:
    """Return the kind of control for the values of one variant."""
    if "const" in node or "enum" in node:
        values = options(node)
        simple = all(isinstance(each, _SCALARS) for each in values)
        return "select" if simple and len(values) <= _MAX_OPTIONS else "json"
    match node.get("type"):
        case "string":
            return "text"
        case "integer" | "number":
            return "number"
        case "boolean":
            return "select"
        case "array" if isinstance(node.get("items"), dict) and "prefixItems" not in node:
            return "rows"
        case "object" if node.get("properties") or node.get("additionalProperties") is False:
            return "group" if "patternProperties" not in node else "json"
        case "object" if values_of(node):
            return "pairs"
    return "json"


def options(node: Node) -> list[Any]:
    """Return the values of a node with kind select."""
    if "const" in node:
        return [node["const"]]
    return list(node.get("enum", (True, False)))


def values_of(node: Node) -> Node | None:
    """Return the node of the values of an object with keys of the caller's, None where it says nothing of them."""
    patterns = list(node.get("patternProperties", {}).values())
    found = patterns[0] if len(patterns) == 1 else node.get("additionalProperties")
    return found if isinstance(found, dict) and found else None


def word(node: Node) -> str:
    """Return what to call a variant in a list of them."""
    for inner in node.get("properties", {}).values():
        if "const" in inner:  # the discriminator of a tagged union
            return f"{node.get('title', 'object')} ({inner['const']})"
    kind = kind_of(node)
    if kind == "pairs":
        return "keys and values"
    if kind == "select" and node.get("type") != "boolean":
        values = options(node)
        return ", ".join(map(shown, values[:_MAX_NAMED])) + (", ..." if len(values) > _MAX_NAMED else "")
    return str(_WORDS.get(str(node.get("type"))) or node.get("title") or node.get("type") or "any")


def hint(name: str, outer: Node, node: Node) -> str:
    """Return what is said beside the control of a property: its description, limits and default."""
    title = str(outer.get("title", ""))
    said = [title if title.casefold() != name.replace("_", " ").casefold() else ""]
    about = outer.get("description") or ("" if "properties" in node else node.get("description", ""))
    said.append(str(about))
    for low, high, unit in _RANGES:
        if low in node or high in node:
            said.append(_range(node.get(low), node.get(high), unit))
    said += [words.format(node[key]) for key, words in _LIMITS.items() if node.get(key, False) is not False]
    said.append(FORMATS.get(str(node.get("format")), ""))
    if outer.get("default") is not None:
        said.append(f"default: {shown(outer['default'])}")
    return "; ".join(text for each in said if (text := each.strip().rstrip(".")))


def shown(value: object) -> str:
    """Return a value as people read it, in one bounded line."""
    text = value if isinstance(value, str) and value else as_json(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def as_json(value: object) -> str:
    """Return a value as JSON text, the same for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _range(low: object, high: object, unit: str) -> str:
    if low is None or high is None:
        return f"at most {high}{unit}" if low is None else f"at least {low}{unit}"
    return f"{low} to {high}{unit}"
