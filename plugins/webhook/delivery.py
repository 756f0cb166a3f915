"""One delivery: the signed request, its response, and the verdict. The retry policy repeats it, not this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from yarl import URL

from sytq import AsyncContext, Fail, Retry, clock
from sytq.errors import CertificateUnusable, OutboundRefused, ProxyFailed
from sytq.http.guard import parse_url
from sytq.http.headers import MANAGED_HEADERS
from sytq.http.timing import Timing

from . import hosts, record, signing
from .config import WebhookSettings, first_match
from .payload import Webhook
from .verdict import bearing, judge, what_broke

if TYPE_CHECKING:
    from sytq.http.client import Answer

_KEPT_BYTES = 64 * 1024  # read of a response, so that the connection can be reused


async def deliver(ctx: AsyncContext, payload: Webhook, *, announces: bool = False) -> dict[str, Any]:
    """Make the request and return the details of a 2xx response. Raises Retry and Fail.

    A request that announces an end names itself (`webhook-id`, `webhook-timestamp`) also without a secret to sign with.
    """
    import aiohttp

    if payload.ordering_key is not None:
        await ctx.turn()
    url = parse_url(payload.url)
    host = url.raw_host or ""
    own = ctx.settings.of(WebhookSettings)
    limiter = hosts.limiter_of(url, own)
    ctx.detail(host=host)
    timing = Timing()
    try:
        async with ctx.acquire(limiter) as permit:
            try:
                answer = await _request(ctx, payload, url, timing, announces)
            except (TimeoutError, aiohttp.ClientError):
                permit.report("failed")
                raise
            permit.report(bearing(answer))
    except OutboundRefused as error:
        ctx.detail(error="refused by the guard")
        raise Fail(str(error)) from None
    except (ProxyFailed, CertificateUnusable) as error:
        ctx.detail(error="proxy" if isinstance(error, ProxyFailed) else "client certificate")
        ctx.log.warning("no delivery can be made", host=host, error=str(error))
        raise Retry(consumes_attempt=False, reason=str(error)) from None  # the configuration is at fault, not the task
    except (TimeoutError, aiohttp.ClientError) as error:
        kind, words = what_broke(error, host)
        ctx.detail(error=kind, latency_ms=timing.milliseconds())
        await hosts.note(ctx, limiter.name, delivered=False)
        raise Retry(reason=words) from None
    ctx.detail(latency_ms=timing.milliseconds(), **record.of_answer(answer, payload.headers, own.webhook.keep_body))
    await hosts.note(ctx, limiter.name, delivered=answer.ok)
    judge(answer, host, own.webhook.final_statuses)
    return {"status": answer.status_code, "elapsed_ms": round(answer.elapsed * 1000)}


async def _request(ctx: AsyncContext, payload: Webhook, url: URL, timing: Timing, announces: bool) -> Answer:
    own, body = ctx.settings.of(WebhookSettings), payload.body.encode()
    message_id = f"msg_{ctx.id}"
    secrets = signing.secrets_for(url, own)
    known = first_match(own.webhook.client_certificates, url)
    return await ctx.http.request(
        payload.method,
        payload.url,
        headers=_with_ids(ctx, outgoing_headers(payload, body, secrets, message_id), message_id if announces else None),
        body=body or None,
        timeout=ctx.settings.worker.request_timeout,
        max_bytes=_KEPT_BYTES,
        partial_body=True,  # the status decides: a 2xx with a broken head or body has been received
        certificate=(known.cert, known.key) if known else None,
        timing=timing,
    )


def _with_ids(ctx: AsyncContext, headers: dict[str, str], message_id: str | None) -> dict[str, str]:
    """Add the ids of the request and trace that caused the delivery, and those of the message, unless given."""
    given = {name.lower() for name in headers}
    known = {"X-Request-Id": ctx.request_id, "traceparent": ctx.traceparent, "webhook-id": message_id}
    known["webhook-timestamp"] = str(int(clock.now())) if message_id else None
    return headers | {name: value for name, value in known.items() if value and name.lower() not in given}


def outgoing_headers(payload: Webhook, body: bytes, secrets: Sequence[str], message_id: str) -> dict[str, str]:
    """The caller's headers without reserved ones, a Content-Type, and the signature if there are secrets."""
    ours = MANAGED_HEADERS | signing.HEADERS if secrets else MANAGED_HEADERS
    headers = {name: value for name, value in payload.headers.items() if name.lower() not in ours}
    if body and not (headers and any(name.lower() == "content-type" for name in headers)):
        headers["Content-Type"] = "application/json" if _is_json(payload.body) else "text/plain; charset=utf-8"
    if secrets:
        headers.update(signing.sign(secrets, message_id, int(clock.now()), body))
    return headers


def _is_json(body: str) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
