"""Webhook payload rules, signature, headers, and the parsing of Retry-After."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import standardwebhooks
import time_machine
from pydantic import ValidationError
from sytq_plugins.webhook.delivery import outgoing_headers
from sytq_plugins.webhook.payload import Webhook
from sytq_plugins.webhook.signing import secrets_for, sign
from sytq_plugins.webhook.verdict import retry_after

from sytq.http.guard import parse_url
from tests.plugins.deliveries import settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_signature_matches_the_standard_webhooks_example() -> None:
    assert sign([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}') == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("body", [b"", b"{}", '{"报告": "完成"}'.encode(), b"not json\r\n"])
@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_standard_webhooks_receiver_verifies_the_signature(secret: str, body: bytes) -> None:
    headers = dict(sign([secret], "msg_1", int(time.time()), body))
    receiver = standardwebhooks.Webhook(SECRET)
    receiver.verify(body, headers, json_parse=False)
    with pytest.raises(standardwebhooks.webhooks.WebhookVerificationError):
        receiver.verify(body + b" ", headers, json_parse=False)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_=", "whsec_a", "whsec_ü"])
def test_invalid_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match=r"webhook\.secret") as error:
        sign([secret], "msg_1", 0, b"")
    assert secret not in str(error.value).replace("whsec_ and", "")


OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLD = "whsec_plJ3nmyCDGBKInavdOK15jsl8WnTvCZy"
SECRETS = [
    {"match": "https://*.example.org/*", "secret": OTHER, "previous": OLD, "until": "2026-08-01"},
    {"match": "*.example.org", "secret": OLD, "previous": OTHER},
]


@pytest.mark.parametrize(
    ("url", "at", "expected"),
    [
        ("https://a.example.org/x", "2026-07-31T23:59:59+00:00", [OTHER, OLD]),
        ("https://a.example.org/x", "2026-08-01T00:00:00+00:00", [OTHER]),
        ("http://a.example.org/x", "2999-01-01T00:00:00+00:00", [OLD, OTHER]),
        ("https://example.org/x", "2026-07-01T00:00:00+00:00", [SECRET]),
        ("https://evil.example/https://a.example.org/", "2026-07-01T00:00:00+00:00", [SECRET]),
    ],
)
def test_first_matching_pattern_selects_secrets_and_rotation_uses_both(url: str, at: str, expected: list[str]) -> None:
    given = settings(webhook__secret=SECRET, webhook__secrets=SECRETS)
    with time_machine.travel(datetime.fromisoformat(at), tick=False):
        assert secrets_for(parse_url(url), given) == expected
    signed = sign(expected, "msg_1", int(time.time()), b"{}")
    assert len(signed["webhook-signature"].split(" ")) == len(expected)
    for secret in {SECRET, OTHER, OLD}:
        receiver = standardwebhooks.Webhook(secret)
        if secret in expected:
            receiver.verify("{}", signed)
        else:
            with pytest.raises(standardwebhooks.webhooks.WebhookVerificationError):
                receiver.verify("{}", signed)


def test_secrets_are_never_shown() -> None:
    shown = str(list(settings(webhook__secret=SECRET, webhook__secrets=SECRETS).describe()))
    assert "*.example.org" in shown
    assert not any(secret.removeprefix("whsec_") in shown for secret in (SECRET, OTHER, OLD))


def headers_of(secret: str | None = None, **payload: Any) -> dict[str, str]:
    parsed = Webhook(url="https://example.com/", **payload)
    return outgoing_headers(parsed, parsed.body.encode(), [secret] if secret else [], "msg_1")


def test_a_caller_cannot_replace_the_signature() -> None:
    headers = headers_of(SECRET, headers={"Webhook-Id": "x", "WEBHOOK-SIGNATURE": "v1,x", "X-Own": "1"}, body="{}")
    assert sorted(headers) == [
        "Content-Type",
        "X-Own",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    ]
    standardwebhooks.Webhook(SECRET).verify("{}", headers)


def test_caller_can_sign_when_no_secret_is_configured() -> None:
    assert headers_of(None, headers={"webhook-id": "x"}) == {"webhook-id": "x"}


def test_connection_headers_of_the_payload_are_dropped() -> None:
    given = {"host": "inside", "Content-Length": "9", "Connection": "close", "Transfer-Encoding": "chunked"}
    assert headers_of(headers=given) == {}


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ('{"a": 1}', {}, {"Content-Type": "application/json"}),
        ("a=1", {}, {"Content-Type": "text/plain; charset=utf-8"}),
        ("[" * 200_000, {}, {"Content-Type": "text/plain; charset=utf-8"}),
        ("{}", {"content-type": "text/x"}, {"content-type": "text/x"}),
        ("", {}, {}),
    ],
    ids=["json", "form", "deep", "given", "empty"],
)
def test_the_content_type_follows_the_body_unless_given(
    body: str, headers: dict[str, str], expected: dict[str, str]
) -> None:
    assert headers_of(body=body, headers=headers) == expected


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://u:hunter2@example.com/"}, "url"),
        ({"url": "https://example.com/" + "a" * 2048}, "url"),
        ({"url": "https://example.com/", "method": "TRACE"}, "method"),
        ({"url": "https://example.com/", "method": 1}, "method"),
        ({"url": "https://example.com/", "headers": {"X-A": "1\r\nX-B: 2"}}, "headers"),
        ({"url": "https://example.com/", "headers": {"X A": "1"}}, "headers"),
        ({"url": "https://example.com/", "headers": {"X-A": 1}}, "headers"),
        ({"url": "https://example.com/", "body": {"a": 1}}, "body"),
        ({"url": "https://example.com/", "body": "\ud800"}, "body"),
        ({"url": "https://example.com/", "bodi": "x"}, "bodi"),
    ],
)
def test_a_bad_payload_is_refused_naming_the_field(payload: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Webhook.model_validate(payload)
    (problem,) = refused.value.errors(include_input=False)
    assert problem["loc"][0] == named
    assert "hunter2" not in problem["msg"]


def test_payloads_of_old_callers_are_accepted() -> None:
    url = "https://example.com/"
    plain = Webhook(url=url)
    assert (plain.method, plain.headers, plain.body) == ("POST", {}, "")
    assert Webhook.model_validate({"url": url, "method": None, "headers": None, "body": None}) == plain
    assert Webhook.model_validate({"url": url, "method": ""}) == plain
    assert Webhook.model_validate({"url": url, "method": "delete"}).method == "DELETE"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("0", 1),
        ("99999999999999999999", 86400),
        ("9" * 5000, 86400),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("١٢", None),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_in_seconds_is_honoured_within_bounds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime.now(UTC)) == seconds


def test_retry_after_as_a_date_is_honoured_within_bounds() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert retry_after("Thu, 01 Jan 2026 12:05:00 GMT", now) == 300
    assert retry_after(format_datetime(now - timedelta(hours=1), usegmt=True), now) == 1
    assert retry_after(format_datetime(now + timedelta(days=400), usegmt=True), now) == 86400
