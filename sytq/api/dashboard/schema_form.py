"""A form for a value of a JSON schema: from the schema and what a browser sent to fields, and from fields to the value.

Names of controls are paths, such as `payload.items.2.price`; a row keeps its number when others are removed. What a
control alone does not say stands under its name and a suffix: `~as` (the variant of a union, or "json"), `~rows` (the
numbers of the rows), `~key` (of a pair), `~given` (of an object that may be left out), `~others` (an object's keys
without a field), `~blank` (what an empty control means). `sytq.api.dashboard.prefill` writes the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from sytq.api.body import check_values, decoded
from sytq.api.dashboard.fields import ABSENT, Blank, Field, Group, Json, Number, Pairs, Rows, Select, Text
from sytq.api.dashboard.schema import FORMATS, Node, Schema, as_json, hint, kind_of, options, shown, values_of, word
from sytq.errors import InvalidFields, InvalidInput

#: What a form may have; a value with more is edited as JSON.
MAX_ROWS, MAX_DEPTH, MAX_FIELDS = 100, 6, 1000
#: Strings that may have more characters than this have a text area, as those with a line break or more than _LONG.
_LINE, _LONG = 4096, 120
#: The formats of one line, and the texts that a browser's control for it shows as they are.
_LINES = {"date": re.compile(r"([1-9]\d{3}-\d\d-\d\d)?", re.ASCII), "password": re.compile(r"[^\n]*")}
_LINES |= dict.fromkeys(("date-time", "time", "duration", "uuid", "uri", "email"), re.compile(r"(?!)"))
_MEANINGS: dict[Blank, str] = {"absent": "left out", "null": "null", "empty": "an empty value"}
_MINIMUM = {"text": "minLength", "rows": "minItems", "pairs": "minProperties"}


def fields(schema: Schema, form: Mapping[str, str], name: str) -> Field:
    """Return the field `name`, with all below it. Raises InvalidInput for more than MAX_FIELDS."""
    return _Builder(schema, form).field(name, name, schema.root, is_optional=False)


def value_of(field: Field) -> Any:
    """Return the value that a form holds. Raises InvalidFields where it cannot be read."""
    wrong = [(path, message) for path, each in field.all() for message in each.errors]
    if wrong:
        raise InvalidFields(wrong)
    return field.value()


def changed(form: Mapping[str, str], change: str) -> dict[str, str]:
    """Return the form after one of its buttons added or removed a row or an object."""
    verb, _, name = change.partition(" ")
    after = dict(form)
    parent, _, number = name.rpartition(".")
    match verb:
        case "add-row":
            rows = numbers(form, name)
            after[f"{name}~rows"] = " ".join(map(str, [*rows, max(rows, default=-1) + 1]))
        case "remove-row":
            after[f"{parent}~rows"] = " ".join(str(row) for row in numbers(form, parent) if str(row) != number)
        case "add":
            after[f"{name}~given"] = "1"
        case "remove":
            after.pop(f"{name}~given", None)
    return after


def numbers(form: Mapping[str, str], name: str) -> list[int]:
    """Return the numbers of the rows of a field."""
    found = form.get(f"{name}~rows", "").split(maxsplit=MAX_ROWS)[:MAX_ROWS]
    return list(dict.fromkeys(int(each) for each in found if re.fullmatch("[0-9]{1,6}", each)))


def below(name: str, key: str) -> str:
    """Return the name of the field of a property."""
    return f"{name}.{quote(key, safe='', errors='backslashreplace').replace('.', '%2E').replace('~', '%7E')}"


def blanks(kind: str, variant: Node, *, is_optional: bool, nullable: bool) -> list[Blank]:
    """Return what an empty control may mean, its usual meaning first."""
    found: list[Blank] = ["absent"] if is_optional else []
    found += ["null"] if nullable else []
    if kind in _MINIMUM and not variant.get(_MINIMUM[kind]) and variant.get("format") not in FORMATS:
        found.append("empty")
    return found or ["absent"]


class _Builder:
    def __init__(self, schema: Schema, form: Mapping[str, str]) -> None:
        self._schema = schema
        self._form = form
        self._count = 0

    def field(self, name: str, segment: str, node: Node, *, is_optional: bool, depth: int = 0) -> Field:
        self._count += 1
        if self._count > MAX_FIELDS:
            raise InvalidInput(name.partition(".")[0], f"the form would have more than {MAX_FIELDS} fields; send JSON")
        variants, nullable = self._schema.variants(node)
        way = self._form.get(f"{name}~as", "")
        if way != "json":
            way = way if re.fullmatch("[0-9]{1,3}", way) and int(way) < len(variants) else "0"
        variant = variants[int(way)] if variants and way != "json" else {}
        kind = kind_of(variant) if depth <= MAX_DEPTH else "json"
        found: dict[str, Any] = {"name": name, "segment": segment, "is_required": not is_optional}
        found["hint"] = hint(segment, node, variant)
        if len(variants) > 1 or way == "json":
            found["ways"] = [*((str(n), word(each)) for n, each in enumerate(variants)), ("json", "JSON")]
            found["way"] = way
        text = self._form.get(name, "").replace("\r\n", "\n")
        if kind == "json":
            return _json(text, found)
        if kind == "select":
            with_null = nullable and (not is_optional or node.get("default") is not None or text == "null")
            return _select(text, found, variant, is_optional=is_optional, nullable=with_null)
        meanings = blanks(kind, variant, is_optional=is_optional, nullable=nullable)
        marked = self._form.get(f"{name}~blank")
        found["blank"] = blank = next((each for each in meanings if each == marked), meanings[0])
        found["blanks"] = _differing(meanings, blank, node, kind)
        must = not is_optional and not nullable
        match kind:
            case "text":
                return _text(text, found, variant, must=must)
            case "number":
                return _number(text, found, variant, must=must)
            case "group":
                return self._group(found, variant, may_be_absent=not must, depth=depth + 1)
            case "rows":
                return self._rows(found, variant, depth + 1)
        return self._pairs(found, variant, depth + 1)

    def _group(self, found: dict[str, Any], variant: Node, *, may_be_absent: bool, depth: int) -> Group:
        name = found["name"]
        group = Group(**found, may_be_absent=may_be_absent, is_given=not may_be_absent or f"{name}~given" in self._form)
        if group.is_given:
            required = variant.get("required", ())
            for key, node in variant.get("properties", {}).items():
                inner = self.field(below(name, key), key, node, is_optional=key not in required, depth=depth)
                group.properties.append(inner)
            others = f"{name}~others"
            if others in self._form or variant.get("additionalProperties"):
                said = "a JSON object with the keys that have no field of their own"
                about = {"name": others, "segment": "other fields", "is_required": False, "hint": said}
                group.others = _json(self._form.get(others, ""), about)
                if not isinstance(group.others.parsed, dict) and group.others.parsed is not ABSENT:
                    group.others.errors.append("a JSON object is needed")
        return group

    def _rows(self, found: dict[str, Any], variant: Node, depth: int) -> Rows:
        name = found["name"]
        rows = [
            self.field(f"{name}.{row}", str(place), variant["items"], is_optional=False, depth=depth)
            for place, row in enumerate(numbers(self._form, name))
        ]
        return Rows(**found, rows=rows, is_full=len(rows) >= min(MAX_ROWS, variant.get("maxItems", MAX_ROWS)))

    def _pairs(self, found: dict[str, Any], variant: Node, depth: int) -> Pairs:
        name, node = found["name"], values_of(variant)
        assert node is not None
        rows: list[Field] = []
        for row in numbers(self._form, name):
            key = self._form.get(f"{name}.{row}~key", "")
            value = self.field(f"{name}.{row}", key, node, is_optional=False, depth=depth)
            if not key or key in (each.segment for each in rows):
                value.errors.append("this key occurs twice" if key else "a key is needed")
            rows.append(value)
        most = min(MAX_ROWS, variant.get("maxProperties", MAX_ROWS))
        return Pairs(**found, rows=rows, is_full=len(rows) >= most)


def _text(text: str, found: dict[str, Any], variant: Node, *, must: bool) -> Text:
    longest, shortest = variant.get("maxLength"), variant.get("minLength", 0)
    is_long = longest is None or longest > _LINE or len(text) > _LONG
    attributes = {"maxlength": str(longest)} if longest is not None else {}
    attributes |= {"required": "required"} if must and shortest else {}
    if (format := variant.get("format")) in _LINES:
        is_long = False
        if _LINES[format].fullmatch(text):
            attributes["type"] = format
    return Text(**found, text=text, is_long=is_long or "\n" in text, attributes=attributes)


def _number(text: str, found: dict[str, Any], variant: Node, *, must: bool) -> Number:
    whole = variant.get("type") == "integer"
    attributes = {"step": "1" if whole else "any"} | ({"required": "required"} if must else {})
    for attribute, inclusive, exclusive, inwards in (
        ("min", "minimum", "exclusiveMinimum", 1),
        ("max", "maximum", "exclusiveMaximum", -1),
    ):
        if exclusive in variant:
            attributes[attribute] = str(variant[exclusive] + inwards if whole else variant[exclusive])
        elif inclusive in variant:
            attributes[attribute] = str(variant[inclusive])
    return Number(**found, text=text.strip(), attributes=attributes)


def _select(text: str, found: dict[str, Any], variant: Node, *, is_optional: bool, nullable: bool) -> Select:
    choices = [(as_json(value), shown(value)) for value in options(variant)]
    if nullable and "null" not in (value for value, _ in choices):
        choices.append(("null", "null"))
    if is_optional or len(choices) != 1:
        choices.insert(0, ("", "left out" if is_optional else "choose"))
    chosen = text if text in (value for value, _ in choices) else choices[0][0]
    return Select(**found, text=chosen, options=choices)


def _json(text: str, found: dict[str, Any]) -> Json:
    field = Json(**found, text=text)
    if text.strip():
        try:
            field.parsed = decoded(text)
            check_values(field.parsed)
        except InvalidInput as error:
            field.errors.append(error.message if error.field == "body" else str(error))
    return field


def _differing(meanings: Iterable[Blank], current: Blank, node: Node, kind: str) -> list[tuple[str, str]]:
    """Return the meanings among which there is something to choose: a default need not be sent."""
    # Without a default in the schema there is a factory of one, which for a list or pairs is an empty one.
    default = node.get("default", ABSENT if kind == "text" else [])
    same: Blank | None = "null" if default is None else "empty" if default in ("", [], {}) else None
    left_out = "absent" in meanings
    found = [each for each in meanings if each == current or not left_out or each != same]
    return [(each, _MEANINGS[each]) for each in found] if len(found) > 1 else []
