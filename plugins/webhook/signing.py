"""The signature of Standard Webhooks, and which secrets sign for which URL."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache

from yarl import URL

from sytq import clock

from .config import WebhookSettings, first_match

HEADERS = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})


def secrets_for(url: URL, settings: WebhookSettings) -> list[str]:
    """The secrets that sign a request to `url`: of the first matching pattern, else the default; with the previous
    secret while it is valid. Empty if none is configured."""
    entry = first_match(settings.webhook.secrets, url)
    secrets = [entry.secret if entry else settings.webhook.secret]
    if entry and entry.previous and (entry.until is None or clock.utc() < entry.until):
        secrets.append(entry.previous)
    return [secret.get_secret_value() for secret in secrets if secret]


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers for UTF-8 `body`, with a signature by each secret; `timestamp` is in unix seconds.

    Raises ValueError for a secret that is not base64 (`whsec_` may stand before it) or is empty.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = []
    for secret in secrets:
        own = _begun(secret).copy()  # to begin one costs as much as all the rest
        own.update(signed)
        signatures.append(f"v1,{b64encode(own.digest()).decode()}")
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}


@lru_cache
def _begun(secret: str) -> hmac.HMAC:
    try:
        key = b64decode(secret.removeprefix("whsec_") + "==")  # the padding may be missing; more than enough is ignored
    except ValueError:
        key = b""
    if not key:
        raise ValueError("webhook.secret must be whsec_ and base64")
    return hmac.new(key, digestmod="sha256")
