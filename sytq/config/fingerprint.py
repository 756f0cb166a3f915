"""Fingerprints of what calls are made with, so that a pause can name what was refused and never hold a key."""

from __future__ import annotations

import functools
import hashlib


@functools.lru_cache(maxsize=1000)
def fingerprint(scope: str, used: str) -> str:
    """Return "scope|digest" for `used`, such as an address with its key. Others of a `scope` take its place.

    The digest is salted and slow to compute (5 ms), as Redis holds it and a password may be a weak one.
    """
    digest = hashlib.scrypt(used.encode(errors="replace"), salt=f"sytq {scope}".encode(), n=2048, r=8, p=1, dklen=8)
    return f"{scope}|{digest.hex()}"
