"""The section `limiters`: what it sets of a limiter, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sytq import Breaker, Limiter
from sytq.broker.limiter import configured
from sytq.config import Settings, load
from sytq.errors import ConfigError

CODE = Limiter(
    "host:a:443", concurrency=100, adaptive=True, calls=10, cost=7, window=1.0, breaker=Breaker(min_calls=20)
)


def settings(limiters: dict[str, Any], queues: dict[str, Any] | None = None) -> Settings:
    return load(environ={"SYTQ_LIMITERS": json.dumps(limiters), "SYTQ_QUEUES": json.dumps(queues or {})})


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, CODE),
        ({"concurrency": 5}, {"concurrency": 5}),
        ({"concurrency": 0, "adaptive": False}, {"concurrency": 0, "adaptive": False}),
        ({"rate": "30/min"}, {"calls": 30, "window": 60.0}),
        ({"cost": 500, "window": "10s"}, {"cost": 500, "window": 10.0}),
        ({"breaker": {"timeout": "5s"}}, {"breaker": Breaker(timeout=5.0)}),
        ({"breaker": {"enabled": False}}, {"breaker": None}),
    ],
)
def test_settings_replace_those_of_code_and_leave_the_others(own: dict[str, Any], expected: Any) -> None:
    found = configured(CODE, settings({CODE.name: own, "host:b:443": {"concurrency": 1}}).limiters)
    stated = {name: getattr(CODE, name) for name in CODE.__dataclass_fields__}
    assert found == (expected if isinstance(expected, Limiter) else Limiter(**stated | expected))


def test_queue_is_limited_in_either_section() -> None:
    found = settings(
        {"queue:llm": {"concurrency": 3, "rate": "5/s"}}, {"llm": {"max_waiting": 9}, "bulk": {"limit": 2}}
    )
    assert {name: (own.limit, own.rate, own.max_waiting) for name, own in found.queue_limits.items()} == {
        "llm": (3, (5, 1.0), 9),
        "bulk": (2, None, None),
    }


@pytest.mark.parametrize(
    ("limiters", "said", "valid"),
    [
        ({"a b": {}}, "limiters: value 'a b'", "but space and |"),
        ({"x" * 301: {}}, "limiters: value 'xxx", "up to 300 ASCII"),
        (
            {"host:a": {"concurrency": -1}},
            "limiters.host:a.concurrency: value '-1' is not valid: too small",
            "at least 0",
        ),
        ({"host:a": {"rate": "0/s"}}, "limiters.host:a.rate: value '0/s' is not valid: not a rate", "100/min"),
        ({"host:a": {"window": 0}}, "limiters.host:a.window: value '0' is not valid: too small", "more than 0"),
        ({"host:a": {"rate": "5/s", "window": "1m"}}, "limiters.host:a.window: value '60s'", "one of the two"),
        ({"host:a": {"limit": 5}}, "limiters.host:a.limit: no such setting", "concurrency"),
        (
            {"host:a": {"breaker": {"fail_threshold": 2}}},
            "limiters.host:a.breaker.fail_threshold: value '2'",
            "at most 1",
        ),
        ({"queue:q": {"breaker": {}}}, "limiters.queue:q: value 'breaker' is not valid", "concurrency, rate"),
        ({"type:t": {"cost": 5}}, "limiters.type:t: value 'cost' is not valid", "concurrency, rate, breaker"),
        ({"type:": {}}, "limiters.type:: value '' is not valid: not the name of a type", "type:NAME"),
        (
            {"queue:llm": {"concurrency": 1}},
            "limiters.queue:llm: value 'queue:llm' is not valid: queues.llm has",
            "one of",
        ),
    ],
)
def test_p7_bad_limiter_stops_the_start_and_names_the_key(limiters: dict[str, Any], said: str, valid: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(limiters, {"llm": {"limit": 2}})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(said)
    assert valid in line
