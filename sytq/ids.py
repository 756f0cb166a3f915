"""Task ids: time-ordered UUIDs (version 7, RFC 9562), and ids derived from another id.

Owns how ids are made; must not know what they identify.
"""

from __future__ import annotations

import os
import time
import uuid


def new_id() -> str:
    """Return a new UUIDv7 as text: sorts by creation time, so inserts append to the primary key."""
    ms = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10), "big")
    value = (ms & (1 << 48) - 1) << 80 | tail
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=value))


def derived_id(parent: str, name: str) -> str:
    """Return the one id that `parent` gives to its child `name`: the same at every run, so a rerun repeats nothing."""
    return str(uuid.uuid5(uuid.UUID(parent), name))
