"""The form of a schema: what a browser sends for a payload's form, unchanged, is the payload."""

from __future__ import annotations

import datetime as dt
import json
import re
from enum import Enum
from typing import Any, Literal

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model

from sytq.api.dashboard.prefill import prefill
from sytq.api.dashboard.schema import Schema
from sytq.api.dashboard.schema_form import MAX_FIELDS, MAX_ROWS, changed, fields, value_of
from sytq.errors import InvalidFields, InvalidInput
from sytq.tasktypes.payload import written
from tests.api.dashboard.browser import forms

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("sytq.api.dashboard"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def html(schema: Schema, form: dict[str, str]) -> str:
    field = fields(schema, form, "payload")
    macros = _ENVIRONMENT.get_template("schema_form.html").module
    return str(macros.show(field, "payload", "/here"))  # type: ignore[attr-defined]


def sent(schema: Schema, form: dict[str, str]) -> dict[str, str]:
    """What a browser sends of a form that was not touched."""
    [shown] = forms(f"<form>{html(schema, form)}</form>")
    return shown.fields


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"
    weight: int | None = None


class Branch(BaseModel):
    kind: Literal["branch"] = "branch"
    children: list[Branch | Leaf] = []
    parent: Branch | None = None


class Pair(BaseModel):
    model_config = ConfigDict(extra="allow")
    left: float
    right: str = "x"


_names = st.one_of(
    st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True), st.sampled_from(["a.b", "x~y", "<b>", "ü ö", "%41"])
)
_text = st.text(max_size=12)
_scalars: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, _text),
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (Color, st.sampled_from(["red", "blue"])),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (Literal["one"], st.just("one")),
    (dt.date, st.dates().map(str)),
    (dt.datetime, st.datetimes().map(lambda moment: moment.isoformat())),
    (
        JsonValue,
        st.recursive(st.none() | st.booleans() | _text, lambda inner: st.lists(inner, max_size=2), max_leaves=3),
    ),
    (Branch, st.just({"children": [{"kind": "leaf", "weight": 3}, {"kind": "branch", "parent": {"children": []}}]})),
    (Pair, st.fixed_dictionaries({"left": st.integers(), "more": _text})),
    (tuple[int, str], st.tuples(st.integers(), _text).map(list)),
]


def _wrapped(inner: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    kind, values = inner
    return st.sampled_from(
        [
            (list[kind], st.lists(values, max_size=3)),
            (dict[str, kind], st.dictionaries(_text, values, max_size=3)),
            (kind | None, st.none() | values),
            (kind | int, values | st.integers()),
            (int | kind | None, values | st.integers() | st.none()),
        ]
    )


@st.composite
def _models(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """A model and its payloads."""
    names = draw(st.lists(_names, max_size=4, unique=True))
    declared: dict[str, Any] = {}
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for number, name in enumerate(names):
        kind, values = draw(_types(depth))
        info: dict[str, Any] = {"alias": name}
        if draw(st.booleans()):
            declared[f"f{number}"] = (kind, Field(**info))
            required[name] = values
        else:
            declared[f"f{number}"] = (kind | None, Field(default=None, **info)) if draw(st.booleans()) else (
                kind, Field(default_factory=dict, **info)
            )  # fmt: skip
            optional[name] = values
    config = ConfigDict(serialize_by_alias=True)
    model = create_model(f"M{draw(st.integers(0, 9))}", __config__=config, **declared)
    return model, st.fixed_dictionaries(required, optional=optional)


def _types(depth: int) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    simple = st.sampled_from(_scalars)
    if depth == 0:
        return simple
    return st.one_of(simple, simple.flatmap(_wrapped), _models(depth - 1), _models(depth - 1).flatmap(_wrapped))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_payload_through_its_form_is_the_same_payload(data: st.DataObject) -> None:
    model, values = data.draw(_models())
    payload = json.loads(written(model.model_validate(data.draw(values))))
    schema = Schema(model.model_json_schema())
    form = prefill(schema, payload, "payload")
    assert form.get("payload~as") != "json", "only what fields cannot express is edited as JSON"
    value = value_of(fields(schema, sent(schema, form), "payload"))
    assert json.dumps(value, sort_keys=True) == json.dumps(payload, sort_keys=True)


class Item(BaseModel):
    sku: str = Field(min_length=1, max_length=20, description="What it is called <b>here</b>")
    price: float = Field(gt=0, le=1000)


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = Field(ge=1)
    items: list[Item] = Field(default=[], max_length=2)
    note: str | None = None
    color: Color = Color.RED
    headers: dict[str, str] = {}
    tree: Branch | None = None
    wait: str | float = "1m"


_ORDER = Schema(Order.model_json_schema())


def order(form: dict[str, str]) -> Any:
    return value_of(fields(_ORDER, form, "payload"))


def test_untouched_form_leaves_every_optional_field_out() -> None:
    assert sent(_ORDER, {}).keys() >= {"payload.number", "payload.note", "payload.color", "payload.wait"}
    assert order(sent(_ORDER, {})) == {}


def test_buttons_add_and_remove_rows_and_keep_what_was_typed() -> None:
    form = sent(_ORDER, changed({}, "add-row payload.items"))
    form = sent(_ORDER, changed(form | {"payload.items.0.sku": "a"}, "add-row payload.items"))
    form |= {"payload.items.1.sku": "b", "payload.items.1.price": "2"}
    assert 'value="add-row payload.items"' not in html(_ORDER, form)  # no more than two
    assert order(form)["items"] == [{"sku": "a"}, {"sku": "b", "price": 2}]
    form = sent(_ORDER, changed(form, "remove-row payload.items.0"))
    assert order(form)["items"] == [{"sku": "b", "price": 2}]
    form = sent(_ORDER, changed(form, "add payload.tree"))
    assert order(form)["tree"] == {}
    assert "tree" not in order(sent(_ORDER, changed(form, "remove payload.tree")))


def test_errors_of_the_model_stand_at_their_fields() -> None:
    form = {
        "payload.number": "0",
        "payload.items~rows": "4 7",
        "payload.items.7.price": "-1",
        "payload.items.4.sku": "a",
    }
    form |= {"payload.tree~given": "1", "payload.tree.children~rows": "2", "payload.headers~rows": "0"}
    form |= {"payload.headers.0~key": "a.b", "payload.headers.0": "x"}
    field = fields(_ORDER, form, "payload")
    field.place("number", "too small")
    field.place("items.1.price", "not above 0")
    field.place("items.0.price", "required")
    field.place("tree.children.0.branch.parent", "no parent")
    field.place("headers.a.b", "no such header")
    field.place("nonsense", "not permitted")
    wrong = {each.name: each.errors for _, each in field.all() if each.errors}
    assert wrong == {
        "payload.number": ["too small"],
        "payload.items.7.price": ["not above 0"],
        "payload.items.4.price": ["required"],
        "payload.tree.children.2.parent": ["no parent"],
        "payload.headers.0": ["no such header"],
        "payload": ["not permitted"],
    }


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ({"payload~as": "json", "payload": "{"}, "payload"),
        ({"payload.wait~as": "json", "payload.wait": '{"a":1,"a":2}'}, "payload.wait"),
        ({"payload.wait~as": "json", "payload.wait": "NaN"}, "payload.wait"),
        ({"payload.wait~as": "json", "payload.wait": "[" * 100_000}, "payload.wait"),
        ({"payload.wait~as": "json", "payload.wait": '"\\ud800"'}, "payload.wait"),
        (
            {"payload.headers~rows": "0 1", "payload.headers.0~key": "a", "payload.headers.1~key": "a"},
            "payload.headers.a",
        ),
        ({"payload.headers~rows": "0"}, "payload.headers."),
    ],
)
def test_what_cannot_be_read_is_an_error_at_its_field(form: dict[str, str], path: str) -> None:
    with pytest.raises(InvalidFields) as raised:
        order(form)
    assert [field for field, _ in raised.value.fields] == [path]


def test_text_that_is_no_number_reaches_the_model_as_it_is() -> None:
    assert order({"payload.number": "12x"}) == {"number": "12x"}
    assert order({"payload.number": "1e999"}) == {"number": "1e999"}
    assert 'type="text" value="12x"' in html(_ORDER, {"payload.number": "12x"})


@pytest.mark.parametrize("text", ["a\rb", "\x00", "\x1b[31m"])
def test_text_that_a_browser_would_change_is_edited_as_json(text: str) -> None:
    form = prefill(_ORDER, {"number": 1, "note": text}, "payload")
    assert form["payload.note~as"] == "json"


def test_empty_text_null_and_absent_stay_different() -> None:
    for payload in ({}, {"note": None}, {"note": ""}, {"headers": {}}, {"items": []}, {"tree": None}, {"tree": {}}):
        form = prefill(_ORDER, payload, "payload")
        assert "payload~as" not in form
        assert order(sent(_ORDER, form)) == payload


def test_hostile_names_and_values_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    model = create_model("Evil", f=(Literal[evil, "b"], Field(alias=evil, title=evil, description=evil)))
    schema = Schema(model.model_json_schema())
    page = html(schema, prefill(schema, {evil: evil}, "payload"))
    assert "<script" not in page
    schema = Schema(Order.model_json_schema())
    page = html(schema, prefill(schema, {"note": f"</textarea>{evil}", "headers": {evil: evil}}, "payload"))
    assert "<script" not in page


def test_large_and_deep_payloads_are_edited_as_json() -> None:
    schema = Schema(Branch.model_json_schema())
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"children": [deep]}
    assert value_of(fields(schema, sent(schema, prefill(schema, deep, "payload")), "payload")) == deep
    many = {"children": [{"kind": "leaf"}] * (MAX_ROWS + 1)}
    assert prefill(schema, many, "payload")["payload.children~as"] == "json"
    wide = {"children": [{"children": [{"weight": 1}] * 50}] * 50}
    form = prefill(schema, wide, "payload")
    assert len(form) < 3 * MAX_FIELDS
    assert "json" in form.values()
    assert value_of(fields(schema, sent(schema, form), "payload")) == wide
    text = {"note": "x" * 200 * 1024}
    assert order(sent(_ORDER, prefill(_ORDER, text, "payload"))) == text


def test_rows_beyond_what_a_form_may_have_are_refused() -> None:
    rows = " ".join(map(str, range(MAX_ROWS)))
    form = {"payload.children~rows": rows}
    for row in range(MAX_ROWS):
        form |= {f"payload.children.{row}.children~rows": rows, f"payload.children.{row}~as": "0"}
    with pytest.raises(InvalidInput, match="more than 1000 fields"):
        fields(Schema(Branch.model_json_schema()), form, "payload")


def test_every_control_of_a_form_has_a_label() -> None:
    form = prefill(_ORDER, {"items": [{"sku": "a"}], "headers": {"a": "b"}, "tree": {}, "wait": 5}, "payload")
    page = html(_ORDER, form)
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    for tag in re.findall(r"<(?:input|select|textarea)[^>]*>", page):
        if 'type="hidden"' in tag or "aria-label=" in tag:
            continue
        name = re.search(r'name="([^"]+)"', tag)
        assert name is not None
        assert name[1] in labelled or name[1].endswith("~key"), tag
