"""The parts that all resources of the API share, and what every resource of /v2 has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sytq.api.data_loader import DataLoader
from sytq.api.diagnosis import Doctor
from sytq.api.sessions import Sessions
from sytq.api.submission import Submission
from sytq.api.task_watcher import TaskWatcher
from sytq.api.threads import Threads
from sytq.ledger.search import Search
from sytq.runtime import Runtime
from sytq.service.ledger_check import LedgerCheck


@dataclass(frozen=True)
class Parts:
    """The parts of one API process; `sql` and `redis` are the threads for calls to each store, `plugins` those for
    what plugins show, which may hang.

    Each of `at_start` is called once on a thread of `sql` when the process starts to serve; nothing waits for it.
    """

    runtime: Runtime
    submission: Submission
    data_loader: DataLoader
    task_watcher: TaskWatcher
    search: Search
    ledger_check: LedgerCheck
    sessions: Sessions
    sql: Threads
    redis: Threads
    plugins: Threads
    doctor: Doctor = field(default_factory=Doctor)
    at_start: list[Callable[[], None]] = field(default_factory=list)


class Resource:
    """A resource that refuses query parameters other than those that `parameters` lists for the method."""

    parameters: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
