"""Two histograms: how long tasks wait for a worker, and how long their attempts take, by type and outcome.

Of many attempts at once: one by one they take longer than all else that an idle attempt does.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from sytq.broker.delivery import Delivery, named
from sytq.observability.metrics import Histogram

RUN = Histogram("sytq_task_seconds", "How long one run of a task took, by what came of it.", ("type", "outcome"))
WAIT = Histogram("sytq_task_wait_seconds", "From being ready to run until the start.", ("queue", "priority"))


def waited(deliveries: Iterable[Delivery]) -> None:
    """Count how long tasks waited that begin now."""
    seconds = collections.defaultdict(list)
    for run in deliveries:
        # An entry's id begins with its time of insertion, by Redis' clock.
        entered = int(run.entry.partition(b"-")[0]) / 1000
        seconds[run.queue_name, run.stream].append(run.started - entered)
    for (queue, stream), each in seconds.items():
        WAIT.observe_all(each, queue, stream.rpartition(":")[2])


def ran(deliveries: Iterable[Delivery]) -> None:
    """Count how long attempts took that have ended."""
    seconds = collections.defaultdict(list)
    for run in deliveries:
        if run.outcome is not None:
            seconds[run.type, named(run.outcome)].append(run.ended - run.started)
    for labels, each in seconds.items():
        RUN.observe_all(each, *labels)
