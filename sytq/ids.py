"""Task ids: time-ordered UUIDs (version 7, RFC 9562), and ids derived from another id."""

from __future__ import annotations

import random
import time
import uuid

#: The namespace of derived ids; a parent is any text, as other programs choose their own ids.
_CHILDREN = uuid.UUID("5c8ed01e-0000-4000-8000-000000000000")


def new_id() -> str:
    """Return a new UUIDv7 as text: sorts by creation time, so inserts append to the primary key."""
    ms, rest = divmod(time.time_ns(), 1_000_000)
    # The 12 bits behind the version continue the time, so ids of a process sort within a millisecond too.
    value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64
    # Ids are not secret, and unlike the system's generator this one keeps the interpreter's lock. The system seeds it,
    # again after every fork.
    text = f"{value | 0x2 << 62 | random.getrandbits(62):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived_id(parent: str, name: str) -> str:
    """Return the id of the child `name` of `parent`: the same in every attempt, so no child is submitted twice."""
    return str(uuid.uuid5(_CHILDREN, f"{parent}/{name}"))
