"""All keys in Redis. They share one hash tag, so that a script may use any of them in a cluster.

Scripts receive keys as KEYS and never build them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sytq.states import PRIORITIES

#: The consumer group of the workers on every stream of tasks, and of the recorder on the events.
GROUP = "sytq"
RECORDER = "recorder"


@dataclass(frozen=True)
class Keys:
    """The keys below one `redis.prefix`."""

    prefix: str

    def _key(self, *parts: str) -> str:
        return ":".join((f"{{{self.prefix}}}", *parts))

    @property
    def live(self) -> str:
        """HASH, the state index: tasks that have not ended, or ended and are not yet in SQL."""
        return self._key("live")

    @property
    def progress(self) -> str:
        """HASH task id -> progress as JSON."""
        return self._key("progress")

    @property
    def events(self) -> str:
        """STREAM of events, read by the recorder."""
        return self._key("events")

    @property
    def workers(self) -> str:
        """ZSET worker -> last heartbeat in ms."""
        return self._key("workers")

    @property
    def stats(self) -> str:
        """HASH "type:outcome" -> count since this Redis was first seen."""
        return self._key("stats")

    @property
    def bell(self) -> str:
        """STREAM of one entry, wakes the promoters: a delayed task is due before all others."""
        return self._key("bell")

    @property
    def queues(self) -> str:
        """SET of all queues that ever had a task."""
        return self._key("queues")

    @property
    def deadletters(self) -> str:
        """STREAM of dead letters: messages that cannot be decoded, with their bytes."""
        return self._key("deadletters")

    @property
    def cancels(self) -> str:
        """HASH id of a running task -> who asked for its cancellation."""
        return self._key("cancels")

    @property
    def paused(self) -> str:
        """HASH task type -> who paused it, when and why, as JSON. The ledger keeps a copy."""
        return self._key("paused")

    @property
    def epoch(self) -> str:
        """STRING: when this Redis was first seen, in ms."""
        return self._key("epoch")

    @property
    def limiters(self) -> str:
        """HASH limiter -> its breaker, adaptive limit and pause, as JSON."""
        return self._key("gates")

    @property
    def limiter_settings(self) -> str:
        """HASH limiter -> its limits as the latest acquisition stated them, as JSON."""
        return self._key("gates", "settings")

    @property
    def permits(self) -> str:
        """ZSET "limiter|task|token|permit|acquired": the held permits."""
        return self._key("gates", "places")

    @property
    def wait_queues(self) -> str:
        """ZSET "limiter|0 or 1|created|task": tasks with a reserved permit (0) or waiting for one (1), oldest first."""
        return self._key("gates", "line")

    @property
    def waiting(self) -> str:
        """HASH task -> the awaited permit, as JSON."""
        return self._key("gates", "waiting")

    @property
    def acquisitions(self) -> str:
        """ZSET "limiter|acquired|task|permit|cost": the permits acquired within the limiter's window."""
        return self._key("gates", "calls")

    @property
    def limiters_due(self) -> str:
        """ZSET limiter -> the loop's next visit, in ms."""
        return self._key("gates", "due")

    @property
    def reservations(self) -> str:
        """ZSET task -> when its reserved permit expires, in ms."""
        return self._key("gates", "promises")

    def stream(self, queue: str, priority: str) -> str:
        """STREAM of waiting and running tasks of one queue and priority."""
        return self._key("queue", queue, priority)

    def streams(self, queue: str) -> list[str]:
        """All streams of a queue, highest priority first."""
        return [self.stream(queue, priority) for priority in PRIORITIES]

    def delayed(self, queue: str) -> str:
        """ZSET task id -> due time in ms."""
        return self._key("delayed", queue)

    def bodies(self, queue: str) -> str:
        """HASH task id -> message, of the delayed tasks."""
        return self._key("bodies", queue)

    def parked(self, queue: str) -> str:
        """HASH task id -> message, of the tasks fetched while their type was paused."""
        return self._key("parked", queue)

    def called(self, queue: str) -> str:
        """LIST of queued tasks with a reserved permit: they start first. A hint only."""
        return self._key("called", queue)

    def rate(self, queue: str) -> str:
        """ZSET of the starts within the rate's window, by time in ms."""
        return self._key("rate", queue)

    def queue_bell(self, queue: str) -> str:
        """STREAM of one entry, wakes the consumers of a queue with a limit: a task has ended."""
        return self._key("free", queue)

    def meter(self, name: str) -> str:
        """STRING: the used part of a caller's quota; expires with its window."""
        return self._key("meter", name)

    def lease(self, loop: str) -> str:
        """STRING: the worker that holds this loop's lease."""
        return self._key("lease", loop)
