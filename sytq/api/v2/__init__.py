"""The native API: tasks of any type, what happens to them, and what runs them.

One file a noun. What an answer looks like is `sytq.view` and `sytq.overview`, what a request may say is `requests`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sytq.api.reader import Reader
from sytq.api.submission import Submission
from sytq.api.threads import Threads
from sytq.api.watch import Watch
from sytq.runtime import Runtime


@dataclass(frozen=True)
class Parts:
    """What the resources of /v2 share."""

    runtime: Runtime
    submission: Submission
    reader: Reader
    watch: Watch
    sql: Threads
    redis: Threads
