"""The details kept of a receiver's response, with credentials masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sytq.config.masking import MASK, is_secret_key, mask_text

if TYPE_CHECKING:
    from sytq.http.client import Answer

_QUERY = re.compile(r"((?:https?://|^/)[^\s?#\"'<>]*)\?[^\s#\"'<>]+")
_MOST_HEADERS = 30
_HEADER_LENGTH = 200
_SECRET_LENGTH = 8  # shorter values would mask words that are equal by chance


def of_answer(answer: Answer, sent: Mapping[str, str], keep: int) -> dict[str, Any]:
    """Status, headers, the first `keep` characters of the body, and what was not read; `sent` are the request's
    headers, whose credentials a receiver may repeat."""
    secrets = [value for name, value in sent.items() if is_secret_key(name) and len(value) >= _SECRET_LENGTH]
    headers = {
        name: MASK if is_secret_key(name) else _clean(value, secrets, _HEADER_LENGTH)
        for name, value in list(answer.headers.items())[:_MOST_HEADERS]
    }
    known: dict[str, Any] = {"status": answer.status_code, "headers": headers}
    if answer.cut:
        known["cut"] = answer.cut
    if keep and answer.content:
        # More than is kept, so that masking happens before the cut.
        text = answer.content[: 4 * keep + 1024].decode(answer.charset, "replace")
        known["body"] = _clean(text, secrets, keep)
        known["body_truncated"] = answer.truncated or len(text) > keep
    return known


def without_query(text: str) -> str:
    """A text with the queries of its URLs masked, and what else looks like a secret."""
    return _QUERY.sub(rf"\1?{MASK}", mask_text(text))


def _clean(text: str, secrets: list[str], most: int) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = without_query(text)[:most]
    return text if text.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
