"""The native API: tasks of any type, what happens to them, and what runs them.

One file a noun. The form of answers is in `sytq.service.task_view` and `sytq.service.status`, that of requests in
`requests`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sytq.api.data_loader import DataLoader
from sytq.api.submission import Submission
from sytq.api.task_watcher import TaskWatcher
from sytq.api.threads import Threads
from sytq.runtime import Runtime


@dataclass(frozen=True)
class Parts:
    """What the resources of /v2 share."""

    runtime: Runtime
    submission: Submission
    reader: DataLoader
    watch: TaskWatcher
    sql: Threads
    redis: Threads
