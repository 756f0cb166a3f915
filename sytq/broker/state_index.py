"""The state index in Python: its entries as _state_index.lua writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sytq.states import QUEUED, RUNNING

#: The worker of a queued task that waits beside its stream to run alone.
_SUSPECT = "suspect"


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
    suspect: bool  # queued, but in no stream: its workers died, and it waits to run alone
    progress: dict[str, Any] | None = None
    queued_ms: int | None = None  # when it entered its stream

    @classmethod
    def parse(cls, text: bytes, progress: bytes | None = None) -> Live:
        """Parse a task's entry, and its progress (JSON)."""
        state, type_name, queue, priority, attempts, _max, token, worker, entry = text.decode().split("|")
        suspect = state == QUEUED and worker == _SUSPECT and not entry
        parked = state == QUEUED and not entry and not suspect
        shown = json.loads(progress) if progress else None
        holder = worker or None if state == RUNNING else None
        at = entry.partition("-")[0]
        queued_ms = int(at) if at.isdigit() else None
        known = state, type_name, queue, priority, int(attempts), int(token), holder, parked, suspect
        return cls(*known, shown, queued_ms)
