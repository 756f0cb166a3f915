"""What the query language accepts, and how it refuses the rest."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sytq.errors import InvalidQuery
from sytq.ledger.query import parse
from sytq.ledger.query.fields import FIELDS, NESTED
from sytq.states import STATES

PAGE = (Path(__file__).parents[3] / "docs/query.md").read_text("utf-8")


def test_terms_are_parsed_with_their_values() -> None:
    wanted = parse(' state:dead,cancelled -type:webhook attempts:>=3\tpayload.order.id:"12\\"3" error:"timed out" ')
    assert [(t.field, t.path, t.operator, t.negated) for t in wanted.terms] == [
        ("state", (), "=", False),
        ("type", (), "=", True),
        ("attempts", (), ">=", False),
        ("payload", ("order", "id"), "=", False),
        ("error", (), "=", False),
    ]
    assert [[value.read for value in term.values] for term in wanted.terms] == [
        ["dead", "cancelled"], ["webhook"], [3], ['12"3'], ["timed out"],
    ]  # fmt: skip
    assert wanted.states == ("dead", "cancelled")
    assert wanted.named("state") == ("dead", "cancelled") and wanted.named("type") == ()
    assert not wanted.needs_now


def test_unquoted_json_values_are_typed_and_quoted_values_are_text() -> None:
    for text, value in {"1": 1, "-1.5e3": -1500.0, "true": True, "null": None, "2026-01-01": "2026-01-01"}.items():
        assert parse(f"payload.x:{text}").terms[0].values[0].read == value
        assert parse(f'payload.x:"{text}"').terms[0].values[0].read == text


def test_a_value_alone_is_a_term_of_any_field() -> None:
    wanted = parse('123 ORD-7/a.b "timed out" "state" created:2026-01-01')
    assert [term.field for term in wanted.terms] == ["any", "any", "any", "any", "created"]
    assert [term.values[0].read for term in wanted.terms[:4]] == [123, "ORD-7/a.b", "timed out", "state"]
    assert wanted.terms[0].values[0].text == "123"


def test_relative_times_need_the_clock_until_a_time_is_given() -> None:
    assert parse("age:>1h").needs_now and parse("finished:<2h").needs_now
    assert not parse("created:>2026-01-01").needs_now
    assert not parse("age:>1h").at(dt.datetime(2026, 1, 1)).needs_now


@pytest.mark.parametrize(
    ("text", "states"),
    [("", STATES), ("state:*", STATES), ("-state:dead", tuple(s for s in STATES if s != "dead")),
     ("state:dead state:queued", ()), ("state:dead,queued -state:queued", ("dead",))],
)  # fmt: skip
def test_a_filter_knows_its_possible_states(text: str, states: tuple[str, ...]) -> None:
    assert parse(text).states == states


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("-webhook", 2, "'webhook' says no field; write field:value, as in state:dead"),
        ("12:30", 1, "'12:30' says no field; write field:value"),
        (">5", 1, "'>5' says no field"),
        ("a,b", 1, "'a,b' says no field"),
        ("*", 1, "'*' says no field"),
        ('""', 1, "'\"\"' says no field"),
        ("type:llm state", 10, "'state' is a field; write state:value, or \"state\" for tasks with this value"),
        ("payload.order_id", 1, "'payload.order_id' is a field; write payload.order_id:value"),
        ("state:dead colour:red", 12, "'colour' is not a field; valid: id, type, queue"),
        ("payload:1", 1, "'payload' is not a field; valid:"),
        ("payload.:1", 1, "'payload.:1' says no field"),
        ("payload.a..b:1", 1, "'payload.a..b:1' says no field"),
        ("type.x:1", 1, "'type.x' is not a field"),
        ("state:pending", 7, "state: 'pending' is not a state; valid: queued, scheduled, running"),
        ("state:", 7, "state: a value is needed"),
        ("state:dead,", 12, "state: a value is needed"),
        ("state:>dead", 8, "state: it has no order; write state:dead"),
        ("priority:top", 10, "priority: 'top' is not a priority; valid: urgent, high, normal, low"),
        ("held:yes", 6, "held: 'yes' is not valid; valid: true, false"),
        ("held:>true", 7, "held: it has no order; write held:true"),
        ("unique_key:>a", 13, "unique_key: it has no order"),
        ('ordering_key:"a "', 14, "ordering_key: 'a ' is not valid; valid: up to 255 visible characters"),
        ("callback.headers.X-Key:a", 1, "'callback.headers.X-Key' is not a field"),
        ("result:1", 1, "'result' is not a field"),
        ("type:a/b", 6, "type: 'a/b' is not a type; valid: letters"),
        ("id:\u00e9", 4, "id: '\u00e9' is not valid; valid: up to 255 visible ASCII"),
        ("attempts:three", 10, "attempts: 'three' is not valid; valid: a whole number from 0"),
        ("attempts:-1", 10, "attempts: '-1' is not valid"),
        ("attempts:>1,2", 12, "attempts: one value is compared with >"),
        ("attempts:\u0663", 10, "attempts:"),
        ("age:1h", 5, "age: it is compared with <, <=, > or >=, as in age:>1h"),
        ("age:>soon", 6, "age: 'soon' is not valid; valid: a duration"),
        ("age:>2026-01-01", 6, "age: '2026-01-01' is not valid; valid: a duration"),
        ("created:>2026-13-01", 10, "created: '2026-13-01' is not valid; valid: a duration"),
        ("created:>0001-01-01", 10, "created:"),
        ("created:>2026-01-01T00:00:00", 10, "created:"),
        ("created:2026-01-01T00:00:00Z", 9, "created: it is compared with"),
        ("created:>9999-12-31T23:59:59-10:00", 10, "created:"),
        ('error:""', 7, "error: a part of the text is needed"),
        ('error:"open', 7, "error: the text has no closing quote"),
        ('error:"a"b', 10, "a space is needed behind 'error:\"a\"'"),
        ("payload.x:>true", 12, "payload: true has no order"),
        ("error:*,x", 9, "error: * stands alone"),
        ("x" * 2001, 2001, "longer than 2000 characters"),
        ("id:a " * 41, 201, "more than 40 terms"),
        ("error:\ud800", 7, "half of a surrogate pair"),
        ("error:a\x00", 8, "a space is needed"),
    ],
)
def test_a_bad_query_is_refused_with_position_and_valid_values(text: str, position: int, says: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse(text)
    assert caught.value.position == position - 1
    assert str(caught.value).startswith(f"query: at character {position}: {says}")


@example("\x85")
@example("state:dead \u3000")
@given(st.text(max_size=60) | st.from_regex(r"\A(-?[a-z.]{1,12}:[<>=]{0,2}[\"\\,*0-9a-z]{0,8} ?){0,5}\Z"))
def test_any_text_is_a_filter_or_a_bad_query(text: str) -> None:
    try:
        wanted = parse(text)
    except InvalidQuery as error:
        assert 0 <= error.position <= len(text)
    else:
        assert parse(wanted.text) == wanted


def test_the_documentation_names_every_field() -> None:
    for field in (*FIELDS, *NESTED):
        assert f"| `{field}" in PAGE, f"docs/query.md lacks {field}"


def test_the_documented_examples_are_valid_queries() -> None:
    examples = [line.strip() for line in PAGE.splitlines() if line.startswith("    ") and "sytq" not in line]
    assert len(examples) >= 5
    for line in examples:
        assert parse(line).terms
