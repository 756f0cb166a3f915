"""Task types `webhook` and `callback`: one HTTP request that must get through.

Owns the payload, the signature and the verdict on an answer; the two types differ in their schedule alone.
Must not repeat a request itself (the policy does) nor put a body, a header or a URL's query in a message.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import aiohttp
import standardwebhooks
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sytq import AsyncContext, Backoff, Fail, Retry, task
from sytq.errors import InvalidInput, OutboundRefused
from sytq.http import MANAGED_HEADERS, check_headers, parse_url

_SIGNATURE_HEADERS = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})
_KEPT_BYTES = 64 * 1024  # read of an answer, so that the connection can be used again; nobody looks at it
_RETRY_AFTER_BOUNDS = (1.0, 24 * 3600.0)  # seconds; a receiver can neither make us spin nor park us for good


class Webhook(BaseModel):
    """An HTTP request to make. Host, Content-Length and hop-by-hop headers are ours and not taken over."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2048, description="http or https, without user name and password")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        try:
            parse_url(value)
        except OutboundRefused as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return (value.upper() or "POST") if isinstance(value, str) else value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        try:
            check_headers(value)
        except InvalidInput as error:
            raise ValueError(error.message) from None
        return value

    @field_validator("body")
    @classmethod
    def _is_utf8(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair cannot be sent as UTF-8") from None
        return value


@task(
    "webhook",
    payload=Webhook,
    queue="webhook",
    retry=lambda settings: Backoff(
        first=settings.worker.retry_interval,
        factor=1,
        max=settings.worker.retry_interval,
        max_age="24h",
        jitter=0,
    ),
    timeout=lambda settings: settings.worker.request_timeout + 5,
    url=lambda payload: payload.url,
)
async def webhook(ctx: AsyncContext, payload: Webhook) -> dict[str, Any]:
    """Make an HTTP request, again every 10 s for up to 24 h, until the answer is a 2xx."""
    return await _deliver(ctx, payload)


@task(
    "callback",
    payload=Webhook,
    queue="webhook",
    retry=Backoff(first="5s", factor=2, max="1h", max_age="24h", jitter=0.2),
    timeout=lambda settings: settings.worker.request_timeout + 5,
    url=lambda payload: payload.url,
)
async def callback(ctx: AsyncContext, payload: Webhook) -> dict[str, Any]:
    """Announce the end of another task, less and less often for up to 24 h, until the answer is a 2xx."""
    return await _deliver(ctx, payload)


async def _deliver(ctx: AsyncContext, payload: Webhook) -> dict[str, Any]:
    host = parse_url(payload.url).raw_host or ""
    body = payload.body.encode()
    secret = ctx.settings.webhook.secret
    headers = outgoing_headers(payload, body, secret.get_secret_value() if secret else None, f"msg_{ctx.id}")
    try:
        answer = await ctx.http.request(
            payload.method,
            payload.url,
            headers=headers,
            body=body or None,
            timeout=ctx.settings.worker.request_timeout,
            max_bytes=_KEPT_BYTES,
            partial_body=True,  # the status is the verdict: a 2xx with a broken body has been received
        )
    except OutboundRefused as error:
        raise Fail(str(error)) from None
    except TimeoutError as error:
        raise Retry(reason=f"{host} {error}") from None
    except aiohttp.ClientError as error:
        raise Retry(reason=_what_broke(error, host)) from None
    if answer.ok:
        return {"status": answer.status_code, "elapsed_ms": round(answer.elapsed * 1000)}
    reason = f"HTTP {answer.status_code} from {host}"
    if answer.status_code == 410:
        raise Fail(f"{reason}: it is gone for good")
    raise Retry(after=retry_after(answer.headers.get("Retry-After"), datetime.now(UTC)), reason=reason)


def outgoing_headers(payload: Webhook, body: bytes, secret: str | None, message_id: str) -> dict[str, str]:
    """The caller's headers but those that are ours, a Content-Type, and the signature given a secret."""
    ours = MANAGED_HEADERS | _SIGNATURE_HEADERS if secret else MANAGED_HEADERS
    headers = {name: value for name, value in payload.headers.items() if name.lower() not in ours}
    if body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json" if _is_json(body) else "text/plain; charset=utf-8"
    if secret:
        headers.update(sign(secret, message_id, int(time.time()), body))
    return headers


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The three headers of Standard Webhooks for UTF-8 `body`; `timestamp` is in unix seconds.

    Raises ValueError for a secret that is not base64 (`whsec_` may stand before it) or is empty.
    """
    try:
        signer = standardwebhooks.Webhook(secret)
    except (ValueError, standardwebhooks.webhooks.EmptyWebhookSecretError):
        raise ValueError("webhook.secret must be whsec_ and base64") from None
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signer.sign(message_id, datetime.fromtimestamp(timestamp, UTC), body.decode()),
    }


def retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After header (seconds or an HTTP date) asks for, within bounds; else None."""
    if value is None:
        return None
    try:
        value = value.strip()
        if value.isascii() and value.isdecimal():
            seconds = float(value)
        else:
            moment = parsedate_to_datetime(value)
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    shortest, longest = _RETRY_AFTER_BOUNDS
    return min(max(seconds, shortest), longest)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _what_broke(error: aiohttp.ClientError, host: str) -> str:
    """One line a person can act on; the library's own text may quote the URL or the answer."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{host} cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the TLS certificate of {host} is not valid"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"TLS with {host} failed"
    if isinstance(error, OSError):
        known = {
            errno.ECONNREFUSED: "connection refused by",
            errno.ECONNRESET: "connection reset by",
            errno.EPIPE: "connection reset by",
            errno.ETIMEDOUT: "no connection to",
            errno.EHOSTUNREACH: "no route to",
            errno.ENETUNREACH: "no route to",
        }
        return f"{known.get(error.errno or 0, 'connection failed to')} {host}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return f"{host} closed the connection without an answer"
    return f"{host} gave no valid HTTP answer"
