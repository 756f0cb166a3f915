"""Completion of a query: what is offered at the cursor, and where it goes."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sytq.errors import InvalidQuery
from sytq.ledger.query import parse
from sytq.ledger.query.completion import LIMIT, complete

TODAY = dt.date(2026, 11, 30)
VALUES = {
    ("type", ()): ["email", "llm", "webhook"],
    ("queue", ()): ["default", "llm"],
    ("host", ()): ["shop.example", "api.example"],
    ("payload", ("order_id",)): ["123", "1234"],
    ("metadata", ("customer",)): ["Müller, Söhne", 'say "hi"', "*", ">5", "plain"],
}
BELOW = {"payload": ["order_id", "url"], "metadata": ["customer"]}


def known(field: str, path: tuple[str, ...], typed: str) -> list[str]:
    return VALUES.get((field, path), [])


def below(field: str) -> list[str]:
    return BELOW.get(field, [])


def offered(text: str) -> list[str]:
    """The query's text after each suggestion for the cursor `|`."""
    at = text.index("|")
    query = text.replace("|", "")
    found = complete(query, at, known, below, TODAY)
    assert 0 <= found.start <= at <= found.end <= len(query)
    return [query[: found.start] + suggestion.text + query[found.end :] for suggestion in found.suggestions]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("|", ["id:", "type:"]),
        ("st|", ["state:", "started:"]),
        ("-st|", ["-state:", "-started:"]),
        ("state:dead ty|", ["state:dead type:"]),
        ("ty|:webhook age:<1h", ["type:webhook age:<1h"]),
        ("state:d|", ["state:dead"]),
        ("state:|", ["state:queued", "state:scheduled"]),
        ("state:dead,c|", ["state:dead,cancelled"]),
        ("state:d|,queued", ["state:dead,queued"]),
        ("-state:dea| type:llm", ["-state:dead type:llm"]),
        ("type:web|", ["type:webhook"]),
        ("queue:|", ["queue:default", "queue:llm", "queue:*"]),
        ("host:example|", ["host:shop.example", "host:api.example"]),
        ("payload.|", ["payload.order_id:", "payload.url:"]),
        ("payload.order_id:12|", ["payload.order_id:123", "payload.order_id:1234"]),
        ("metadata.cu|", ["metadata.customer:"]),
        ("metadata.customer:mü|", ['metadata.customer:"Müller, Söhne"']),
        ('metadata.customer:"mü|', ['metadata.customer:"Müller, Söhne"']),
        ('metadata.customer:"mü|ller" age:>1h', ['metadata.customer:"Müller, Söhne" age:>1h']),
        ("age:|", ["age:<10m", "age:<1h"]),
        ("age:>|", ["age:>10m", "age:>1h"]),
        ("age:>5|", ["age:>5s", "age:>5m", "age:>5h"]),
        ("created:2026|", ["created:2026-11-30", "created:2026-11-29"]),
        ("finished:<=|", ["finished:<=10m"]),
        ("attempts:|", ["attempts:>=1"]),
        ("dead|", ["state:dead"]),
        ("webh|", ["type:webhook"]),
        ("held:t|", ["held:true"]),
    ],
)
def test_cursor_gets_names_and_values_that_fit_it(text: str, first: list[str]) -> None:
    assert offered(text)[: len(first)] == first


@pytest.mark.parametrize(
    "text", ["colour:r|", "state:>d|", "payload:|", "type.x:|", "|-state:dead", "error:timed| out", "state:dead|"]
)
def test_cursor_where_nothing_fits_gets_nothing(text: str) -> None:
    assert offered(text) == []


@pytest.mark.parametrize("value", VALUES["metadata", ("customer",)])
def test_a_completed_value_is_read_as_it_is(value: str) -> None:
    terms = [parse(text).terms[0] for text in offered(f'metadata.customer:"{value[0]}|')]
    assert ("=", value) in [(term.operator, term.values[0].read) for term in terms]


@given(st.text(max_size=40) | st.from_regex(r"\A(-?[a-z.]{1,9}:[<>=]{0,2}[\"\\,*0-9a-z]{0,6} ?){0,4}\Z"), st.integers())
def test_any_text_and_cursor_get_a_short_list_inside_the_text(text: str, at: int) -> None:
    found = complete(text, at, known, below, TODAY)
    assert 0 <= found.start <= found.end <= len(text) and len(found.suggestions) <= LIMIT


@given(st.from_regex(r"\A(state|age|type|queue|attempts|held|created):[<>]?[a-z0-9]?\Z"))
def test_every_suggested_value_makes_a_valid_term(text: str) -> None:
    for completed in offered(f"{text}|"):
        try:
            parse(completed)
        except InvalidQuery as error:
            pytest.fail(f"{completed}: {error}")
