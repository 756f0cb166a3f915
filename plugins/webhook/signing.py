"""The signature of Standard Webhooks, and which secrets sign for which URL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from yarl import URL

from .config import WebhookSettings, first_match

if TYPE_CHECKING:
    import standardwebhooks

HEADERS = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})


def secrets_for(url: URL, settings: WebhookSettings, now: datetime) -> list[str]:
    """The secrets that sign a request to `url`: of the first matching pattern, else the default; with the previous
    secret while it is valid. Empty if none is configured."""
    entry = first_match(settings.webhook.secrets, url)
    secrets = [entry.secret if entry else settings.webhook.secret]
    if entry and entry.previous and (entry.until is None or now < entry.until):
        secrets.append(entry.previous)
    return [secret.get_secret_value() for secret in secrets if secret]


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers for UTF-8 `body`, with a signature by each secret; `timestamp` is in unix seconds.

    Raises ValueError for a secret that is not base64 (`whsec_` may stand before it) or is empty.
    """
    moment, text = datetime.fromtimestamp(timestamp, UTC), body.decode()
    signatures = [_signer(secret).sign(message_id, moment, text) for secret in secrets]
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}


@lru_cache
def _signer(secret: str) -> standardwebhooks.Webhook:
    import standardwebhooks

    try:
        return standardwebhooks.Webhook(secret)
    except (ValueError, standardwebhooks.webhooks.EmptyWebhookSecretError):
        raise ValueError("webhook.secret must be whsec_ and base64") from None
