"""The form of a value: what a browser sends for it unchanged, by the names of `sytq.api.dashboard.schema_form`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sytq.api.dashboard.fields import is_number
from sytq.api.dashboard.schema import Node, Schema, as_json, kind_of, options, values_of
from sytq.api.dashboard.schema_form import MAX_DEPTH, MAX_FIELDS, MAX_ROWS, below, blanks, fields, value_of
from sytq.errors import InvalidInput

Form = dict[str, str]
#: What a text area gives back as it was; a key stands in one line.
_TEXT = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]*")
_KEY = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")


def prefill(schema: Schema, value: Any, name: str) -> Form:
    """Return the form that holds a value. What its fields cannot give back as it is, is edited as JSON."""
    try:
        form = _Filler(schema).field(name, schema.root, value, is_optional=False, depth=0)
        if as_json(value_of(fields(schema, form, name))) == as_json(value):
            return form
    except (_Unfit, InvalidInput):
        pass
    return json_form(value, name)


def json_form(value: Any, name: str) -> Form:
    """Return the form that holds a value as JSON text."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        text = json.dumps(value, indent=2)
    return {f"{name}~as": "json", name: text}


class _Unfit(Exception):
    """A field cannot express the value."""


class _Filler:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._count = 0

    def field(self, name: str, node: Node, value: Any, *, is_optional: bool, depth: int, strict: bool = False) -> Form:
        """The names of a field and of all below it. Raises _Unfit, when `strict` also for a part that needs JSON."""
        self._count += 1
        if self._count > MAX_FIELDS:
            raise _Unfit
        variants, nullable = self._schema.variants(node)
        if value is None and nullable:
            kind = kind_of(variants[0]) if variants and depth <= MAX_DEPTH else "json"
            return {name: "null"} if kind in ("json", "select") else {f"{name}~blank": "null"}
        several, may_be_absent = len(variants) > 1, is_optional or nullable
        for number, variant in enumerate(variants):
            try:
                form = self._variant(name, variant, value, may_be_absent, depth, strict or several)
            except _Unfit:
                continue
            return {f"{name}~as": str(number), **form} if several else form
        if strict or depth == 0:
            raise _Unfit
        return json_form(value, name)

    def _variant(self, name: str, variant: Node, value: Any, may_be_absent: bool, depth: int, strict: bool) -> Form:
        kind = kind_of(variant) if depth <= MAX_DEPTH else "json"
        match kind, value:
            case "json", _:
                return {name: json_form(value, name)[name]}
            case "select", _ if as_json(value) in map(as_json, options(variant)):
                return {name: as_json(value)}
            case ("text", "") | ("rows", []) | ("pairs", {}) if not value:
                if "empty" in blanks(kind, variant, is_optional=False, nullable=False):
                    return {f"{name}~blank": "empty"}
            case "text", str() if _TEXT.fullmatch(value):
                return {name: value}
            case "number", int() | float() if not isinstance(value, bool) and is_number(as_json(value)):
                if variant["type"] == "number" or isinstance(value, int):
                    return {name: as_json(value)}
            case "rows", list() if len(value) <= MAX_ROWS:
                return self._rows(name, variant["items"], dict(enumerate(value)), depth, strict)
            case "pairs", dict() if len(value) <= MAX_ROWS and all(map(_KEY.fullmatch, value)):
                node = values_of(variant)
                assert node is not None
                form = self._rows(name, node, dict(enumerate(value.values())), depth, strict)
                return form | {f"{name}.{row}~key": key for row, key in enumerate(value)}
            case "group", dict():
                form = self._properties(name, variant, value, depth, strict)
                return {f"{name}~given": "1", **form} if may_be_absent else form
        raise _Unfit

    def _rows(self, name: str, node: Node, values: Mapping[int, Any], depth: int, strict: bool) -> Form:
        form = {f"{name}~rows": " ".join(map(str, values))}
        for row, value in values.items():
            form |= self.field(f"{name}.{row}", node, value, is_optional=False, depth=depth + 1, strict=strict)
        return form

    def _properties(self, name: str, variant: Node, value: Mapping[str, Any], depth: int, strict: bool) -> Form:
        properties, required = variant.get("properties", {}), variant.get("required", ())
        others = {key: inner for key, inner in value.items() if key not in properties}
        is_other = others and not variant.get("additionalProperties")
        if strict and (is_other or any(key not in value for key in required)):
            raise _Unfit
        form: Form = {}
        for key in properties.keys() & value.keys():
            place, optional = below(name, key), key not in required
            form |= self.field(place, properties[key], value[key], is_optional=optional, depth=depth + 1, strict=strict)
        if others:
            form[f"{name}~others"] = json_form(others, name)[name]
        return form
