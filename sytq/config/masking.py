"""Masks secrets, by their name or form, in logs, error messages and `sytq config show`. Must import nothing of sytq."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"

#: The last word of the key decides: `api_key`, `X-Api-Key`, `access_token`; not `max_tokens`.
_SECRET_KEY = re.compile(
    r"(?:^|[^a-z0-9])(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|apikey|private[_-]?key"
    r"|secret[_-]?key|access[_-]?key|authorization|cookie|credentials?)$",
    re.IGNORECASE,
)
_LOOKS_SECRET = (
    # password=..., "api_key": "...", X-Api-Key: ... inside a sentence, a query string or a printed dict
    (
        re.compile(
            r"(?i)((?<![a-z0-9])(?:password|passwd|secret|token|api[_-]?key|authorization)[\"']?\s*[:=]\s*[\"']?"
            r"(?:(?:bearer|basic)\s+)?+)(?!\*\*\*)[^\s\"',;&}\]]+"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)(?!\*\*\*)[a-z0-9._~+/=-]{8,}"), rf"\1{MASK}"),
    # The look-behind keeps "task-0198c2d4" whole.
    (re.compile(r"(?<![A-Za-z0-9])(sk-|whsec_)[A-Za-z0-9+/=_-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"(?<![A-Za-z0-9])(sytq_[0-9a-f]{12}_)[0-9a-f]{8,}"), rf"\1{MASK}"),
    # From `://`, as a search for the scheme before it takes a time that grows with the square of a long word.
    (re.compile(r"(://[^\s/:@?#]*):[^\s/@]+@"), rf"\1:{MASK}@"),
    # Go's MySQL form: user:password@tcp(host:port)/db; bounded for the same reason.
    (re.compile(r"(^|[\s\"'=])([^\s:/@\"']{0,200}):\S{1,200}@(tcp|unix)\("), rf"\1\2:{MASK}@\3("),
)
#: Most log lines hold none of these, and one look is cheaper than five substitutions.
_WORTH_A_LOOK = re.compile(
    r"(?i)passw|secret|token|api[_-]?key|authorization|bearer|sk-|whsec_|sytq_[0-9a-f]|://[^\s/]*@|@(?:tcp|unix)\("
)


@lru_cache(maxsize=1000)  # every log line has the same few keys
def is_secret_key(key: str) -> bool:
    """Whether a value under this key (header, field, setting) must never be shown."""
    return _SECRET_KEY.search(key) is not None


def mask_text(text: str) -> str:
    """Mask everything that looks like a key, a token or a password in a URL."""
    if may_hold_secret(text) and _WORTH_A_LOOK.search(text):
        for pattern, instead in _LOOKS_SECRET:
            text = pattern.sub(instead, text)
    return text


def may_hold_secret(text: str) -> bool:
    """Whether `mask_text` has to search this text, or one that is part of it."""
    text = text.casefold()
    # Written out: of a line's short texts this takes a tenth of the time of the search.
    return (
        ("@" in text or "key" in text or "token" in text or "passw" in text or "secret" in text or "bearer" in text)
        or ("sk-" in text or "sytq_" in text or "whsec_" in text or "authorization" in text)
    )  # fmt: skip


def mask_url(url: str) -> str:
    """Mask the password of a URL or Go DSN, also when it contains `/` or `@` unescaped."""
    masked = re.sub(r"^([a-z][a-z0-9+.-]*://)?([^:@/]*):(.*)@", rf"\1\2:{MASK}@", url, flags=re.IGNORECASE | re.S)
    return mask_text(masked)


def masked(key: str, value: Any, *, is_clean: bool = False) -> Any:
    """Return a value in the types of JSON, with all secrets masked; `key` is the name of the value. A text that
    `is_clean` may not hold one, unless by its key.
    """
    if type(value) is str:  # most are
        return MASK if value and is_secret_key(key) else value if is_clean else mask_text(value)
    if isinstance(value, Mapping):
        return {str(name): masked(str(name), inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [masked(key, inner) for inner in value]
    if is_secret_key(key):
        return MASK if value else value
    return value if value is None or isinstance(value, (bool, int, float)) else mask_text(str(value))
