"""Fingerprints of what calls are made with, so that a pause can name what was refused and never hold a key."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from pydantic import BaseModel, SecretStr


def fingerprint(scope: str, *used: object, without: frozenset[str] = frozenset()) -> str:
    """Return "scope|digest" for sections of the configuration and other values; the others of a `scope` take its place.

    `without` are fields of the sections that a refusal does not depend on.
    """
    parts = [value.model_dump(exclude=set(without)) if isinstance(value, BaseModel) else value for value in used]
    return f"{scope}|{_digest(scope, json.dumps(parts, default=revealed, sort_keys=True))}"


@functools.lru_cache(maxsize=1000)
def _digest(scope: str, text: str) -> str:
    # Salted and slow to compute (5 ms): Redis holds it, and a password may be a weak one.
    return hashlib.scrypt(text.encode(errors="replace"), salt=f"sytq {scope}".encode(), n=2048, r=8, p=1, dklen=8).hex()


def revealed(value: Any) -> str:
    """What JSON has no form for, as text, also where it is a secret."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
