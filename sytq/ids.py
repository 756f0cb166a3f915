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
    # Ids are not secret, and unlike the system's generator this one keeps the interpreter's lock. The system seeds it,
    # again after every fork.
    noise = random.getrandbits(62)
    # The 12 bits behind the version 7 continue the time, so ids of a process sort within a millisecond too.
    head = f"{ms >> 16 & 0xFFFFFFFF:08x}-{ms & 0xFFFF:04x}-7{(rest << 12) // 1_000_000:03x}"
    return f"{head}-{0x8000 | noise >> 48:04x}-{noise & 0xFFFFFFFFFFFF:012x}"


def derived_id(parent: str, name: str) -> str:
    """Return the id of the child `name` of `parent`: the same in every attempt, so no child is submitted twice."""
    return str(uuid.uuid5(_CHILDREN, f"{parent}/{name}"))
