"""The state index in Python: its entries as _state_index.lua writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sytq.states import QUEUED


@dataclass(frozen=True, slots=True)
class Live:
    """A task's state at this moment, possibly newer than its row."""

    state: str
    type: str
    queue: str
    priority: str
    attempts: int
    token: int
    worker: str | None
    parked: bool  # queued, but in no stream: fetched while its type was paused
    progress: dict[str, Any] | None = None

    @classmethod
    def parse(cls, text: bytes, progress: bytes | None = None) -> Live:
        """Parse a task's entry, and its progress (JSON)."""
        state, type_name, queue, priority, attempts, _max, token, worker, entry = text.decode().split("|")
        parked = state == QUEUED and not entry
        shown = json.loads(progress) if progress else None
        return cls(state, type_name, queue, priority, int(attempts), int(token), worker or None, parked, shown)
