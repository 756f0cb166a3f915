"""What the attempts of a task have left: answered nodes, the written end of its row, calls whose end is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sytq.ledger.models import Step

#: Name of the step without a result that says: this task has written the end of its row. Releases from 0.1 on read it.
WRITTEN = "report"
_DONE = "SELECT COUNT(*) FROM sytq_steps WHERE task_id = ? AND state = 'done' AND name"
#: Values that are read beside a row, each of the task with this id.
STANDING: Mapping[str, str] = {
    "sytq_done": f"{_DONE} BETWEEN 'node-' AND 'node-~'",
    "sytq_written": f"{_DONE} = '{WRITTEN}'",
    "sytq_begun": "SELECT COUNT(*) FROM sytq_spend WHERE task_id = ? AND outcome = 'begun'",
    "sytq_owner": "SELECT owner FROM sytq_tasks WHERE id = ?",
}


class Standing(NamedTuple):
    """The number of answered nodes; whether the end of the row is written, so that no attempt may touch it again; the
    number of calls whose end is not known; the task's owner."""

    done: int
    written: bool
    begun: int
    owner: str | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Standing:
        """Take it out of a row that was read with STANDING."""
        done, written, begun, owner = (row.pop(name) for name in STANDING)
        return cls(done, bool(written), begun, owner)


def is_written(task_id: str) -> bool:
    """Whether the task has written the end of its row."""
    return Step.get_or_none(Step.task_id == task_id, Step.name == WRITTEN) is not None
