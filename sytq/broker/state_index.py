"""The state index in Python: its entries as _state_index.lua writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sytq.states import QUEUED, RETRYING, RUNNING

#: The worker of a queued task that waits beside its stream to run alone.
_SUSPECT = "suspect"
#: The worker of a task that is or was in the wait queue of a limiter.
_WAITED = "waited"


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
    parked: bool  # it waits until its paused type is resumed; `Inspection.live` knows of most
    suspect: bool  # queued, but in no stream: its workers died, and it waits to run alone
    progress: dict[str, Any] | None = None
    queued_ms: int | None = None  # when it entered its stream
    waits: bool = False  # for a limiter

    @classmethod
    def parse(cls, text: bytes, progress: bytes | None = None) -> Live:
        """Parse a task's entry, and its progress (JSON)."""
        state, type_name, queue, priority, attempts, _max, token, worker, entry = text.decode().split("|")
        suspect = state == QUEUED and worker == _SUSPECT and not entry
        parked = state == QUEUED and not entry and not suspect  # until 0.3: set aside by a worker of 0.1
        shown = json.loads(progress) if progress else None
        holder = worker or None if state == RUNNING else None
        at = entry.partition("-")[0]
        queued_ms = int(at) if at.isdigit() else None
        known = state, type_name, queue, priority, int(attempts), int(token), holder, parked, suspect
        return cls(*known, shown, queued_ms, state == RETRYING and worker == _WAITED)
