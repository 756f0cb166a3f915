"""The retry delay that a provider asks for, in every known form."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from sytq_plugins.llm.delay import asked_delay

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=90)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": format_datetime(LATER, usegmt=True)}, 90),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "9999999"}, 86400),
        ({"Retry-After": format_datetime(NOW - timedelta(hours=1), usegmt=True)}, 0.05),
        ({"retry-after-ms": "1500", "Retry-After": "60"}, 1.5),
        ({"retry-after-ms": "nan", "Retry-After": "60"}, 60),
        ({"retry-after-ms": "x", "Retry-After": "60"}, 60),
        ({"x-ratelimit-reset-requests": "1s"}, 1),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "2m59.56s"}, 179.56),
        ({"x-ratelimit-reset-requests": "1s", "Retry-After": "2"}, 2),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "8000"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"}, 360),
        ({"X-RateLimit-Reset": str(int(LATER.timestamp()))}, 90),
        ({"X-RateLimit-Reset": str(int(LATER.timestamp() * 1000))}, 90),
        ({"anthropic-ratelimit-tokens-reset": "2026-07-01T12:01:30Z"}, 90),
        ({"x-ratelimit-reset-requests": "2026-07-01T12:01:30"}, 90),
        ({"x-ratelimit-limit-requests": "60"}, None),
    ],
)
def test_every_form_of_retry_delay_is_parsed(headers: dict[str, str], seconds: float | None) -> None:
    found = asked_delay(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))
