"""Queues by priority: what they hold now, and what came and ended lately. Changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sytq.ledger.figures import Counts, Place
from sytq.service.status import QueueView
from sytq.states import DEFAULT_PRIORITY, PRIORITIES
from sytq.tasktypes.registry import Registry

#: The counts of a queue and priority.
Levels = Mapping[tuple[str, str], Counts]


@dataclass(frozen=True, slots=True)
class Level:
    """One priority of a queue. `lately` and `day` are the counts of the last minutes and the last 24 hours."""

    queue: QueueView
    priority: str
    waiting: int
    running: int
    oldest_seconds: float | None
    lately: Counts
    day: Counts
    is_first: bool = False  # of those of its queue


def by_level(counts: Mapping[Place, Counts], registry: Registry) -> Levels:
    """The counts by queue and priority; rows of other languages may leave both to the type."""
    found: dict[tuple[str, str], Counts] = defaultdict(Counts)
    for (name, queue, priority), one in counts.items():
        level = (queue or registry.queue_of(name), priority or DEFAULT_PRIORITY)
        found[level] = found[level] + one
    return found


def levels(queues: Iterable[QueueView], lately: Levels, day: Levels) -> Iterator[Level]:
    """The priorities that were used within a day, and one at least of each queue."""
    nothing = Counts()
    for queue in queues:
        depths = {depth["priority"]: depth for depth in queue["priorities"]}
        shown = [name for name in PRIORITIES if depths[name]["waiting"] or depths[name]["running"]]
        shown += [name for name in PRIORITIES if (queue["queue"], name) in lately or (queue["queue"], name) in day]
        for place, name in enumerate(sorted(set(shown) or {DEFAULT_PRIORITY}, key=PRIORITIES.index)):
            key, depth = (queue["queue"], name), depths[name]
            counts = lately.get(key, nothing), day.get(key, nothing)
            yield Level(
                queue, name, depth["waiting"], depth["running"], depth["oldest_seconds"], *counts, is_first=not place
            )
