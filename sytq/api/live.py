"""What Redis knows of tasks that is newer than their rows.

Owns how long Redis may take for it, and what a Redis that does not answer means: the rows alone must do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from sytq.api.threads import Threads
from sytq.broker.inspection import Inspection, Live
from sytq.errors import Overloaded, RedisUnavailable
from sytq.ledger.models import Task
from sytq.states import TERMINAL


class LiveView:
    """What Redis knows of tasks, while it answers within a second; else the rows alone must do."""

    _patience = 1.0
    _pause = 5.0

    def __init__(self, inspection: Inspection, threads: Threads) -> None:
        self._inspection = inspection
        self._threads = threads
        self._resumes = 0.0

    async def of(self, rows: Iterable[Task]) -> dict[str, Live]:
        """The newer state of those tasks that have one."""
        open_rows = {row.id: row for row in rows if row.state not in TERMINAL}
        if not open_rows or time.monotonic() < self._resumes:
            return {}
        try:
            live = await asyncio.wait_for(self._threads.run(self._inspection.live, list(open_rows)), self._patience)
        except (RedisUnavailable, TimeoutError, Overloaded):
            self._resumes = time.monotonic() + self._pause
            return {}
        return {id: seen for id, seen in live.items() if seen.token >= open_rows[id].token}
