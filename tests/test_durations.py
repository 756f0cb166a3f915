from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sytq.durations import Duration, format_duration, parse_duration


class Wait(BaseModel):
    wait: Duration
    longest: Duration | None = None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1m", 60.0),
        ("1m30s", 90.0),
        ("24h", 86400.0),
        ("1h30m45s", 5445.0),
        ("200ms", 0.2),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("10us", 1e-5),
        ("10\N{MICRO SIGN}s", 1e-5),
        ("10\N{GREEK SMALL LETTER MU}s", 1e-5),
        ("7ns", 7e-9),
        ("1m0.1s", 60.1),
        ("0", 0.0),
        ("0s", 0.0),
        ("90", 90.0),
        ("2.5", 2.5),
        (" 5s ", 5.0),
        (10, 10.0),
        (0.25, 0.25),
    ],
)
def test_go_durations_and_plain_seconds_are_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "5 s",
        "5x",
        "1d",
        "1h30",
        "30s1",
        "1m-5s",
        "--5s",
        "nan",
        "inf",
        "1e3",
        "١s",
        "1_000",
        "9e999h",
        "9" * 400 + "h",
        "3000000h",
        None,
        True,
        [],
        {},
        b"5s",
        math.nan,
        math.inf,
        10**400,
    ],
)
def test_invalid_durations_are_refused_with_the_valid_form(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not valid: .*; valid: a duration such as 200ms, 30s"):
        parse_duration(text)


@pytest.mark.parametrize("value", ["-5s", "-1", -1, -0.001])
def test_negative_durations_are_refused_as_negative(value: object) -> None:
    with pytest.raises(ValueError, match="negative"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5445, "1h30m45s"),
        (86400, "24h0m0s"),
        (3600, "1h0m0s"),
        (90, "1m30s"),
        (60.5, "1m0.5s"),
        (30, "30s"),
        (1.5, "1.5s"),
        (0.2, "200ms"),
        (0.0015, "1.5ms"),
        (1e-5, "10\N{MICRO SIGN}s"),
        (7e-9, "7ns"),
        (0, "0s"),
        (1e-12, "0s"),
        (-90, "-1m30s"),
        (-1e-12, "0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**15))
def test_formatted_durations_parse_back_to_the_nanosecond(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert round(parse_duration(format_duration(seconds)) * 10**9) == round(seconds * 10**9)


@given(st.text(max_size=20))
def test_any_text_is_parsed_or_refused_with_the_valid_form(text: str) -> None:
    try:
        assert 0 <= parse_duration(text) < math.inf
    except ValueError as error:
        assert "valid: a duration" in str(error)


def test_the_pydantic_type_holds_seconds_and_dumps_the_written_form() -> None:
    wait = Wait.model_validate({"wait": "1m30s", "longest": 7200})
    assert (wait.wait, wait.longest) == (90.0, 7200.0)
    assert wait.model_dump() == {"wait": 90.0, "longest": 7200.0}
    assert wait.model_dump(mode="json") == {"wait": "1m30s", "longest": "2h0m0s"}


def test_pydantic_type_refuses_text_with_the_valid_form() -> None:
    with pytest.raises(ValidationError, match="not a duration; valid: a duration such as 200ms"):
        Wait.model_validate({"wait": "soon"})
