"""All keys in Redis. They share one hash tag, so that a script may use any of them in a cluster.

Scripts receive keys as KEYS and never build them.
"""

from __future__ import annotations

from sytq.states import PRIORITIES

#: The consumer group of the workers on every stream of tasks, and of the recorder on the events.
GROUP = "sytq"
RECORDER = "recorder"


class Keys:
    """The keys below one `redis.prefix`."""

    def __init__(self, prefix: str) -> None:
        self._tag = f"{{{prefix}}}"
        #: STRING that the check of the user's rights writes; gone after a second.
        self.rights = self._key("rights")
        #: HASH, the state index: tasks that have not ended, or ended and are not yet in SQL.
        self.live = self._key("live")
        #: HASH task id -> progress as JSON.
        self.progress = self._key("progress")
        #: HASH "task id step" -> the step's result, while the database does not take it.
        self.results = self._key("results")
        #: STREAM of events, read by the recorder.
        self.events = self._key("events")
        #: STRING: the time in ms of the last event that is in the ledger, as its recorder knows.
        self.recorded = self._key("recorded")
        #: ZSET worker -> last heartbeat in ms.
        self.workers = self._key("workers")
        #: HASH "type:outcome" -> count since this Redis was first seen.
        self.stats = self._key("stats")
        #: STREAM of one entry, wakes the promoters: a delayed task is due before all others.
        self.bell = self._key("bell")
        #: SET of all queues that ever had a task.
        self.queues = self._key("queues")
        #: STREAM of dead letters: messages that cannot be decoded, with their bytes.
        self.deadletters = self._key("deadletters")
        #: HASH id of a running task -> who asked for its cancellation.
        self.cancels = self._key("cancels")
        #: HASH task id -> the crashes of its workers, as JSON; gone with the task, or after a week without a crash.
        self.crashes = self._key("crashes")
        #: HASH worker -> "left", or what an isolated process died of as JSON; gone an hour after the last was added.
        self.departed = self._key("departed")
        #: HASH task type -> the pause of its limiter `type:NAME`, as JSON. The ledger has those of persons, too.
        self.paused = self._key("paused")
        #: STRING: when this Redis was first seen, in ms.
        self.epoch = self._key("epoch")
        #: HASH: the identity of this Redis, and which ledger it serves.
        self.pair = self._key("pair")
        #: HASH worker or API process -> what it says of itself, as JSON.
        self.cards = self._key("cards")
        #: ZSET API process -> when it last wrote its card, in ms.
        self.apis = self._key("apis")
        #: HASH limiter -> its breaker, adaptive limit and pause (but of a type), as JSON.
        self.limiters = self._key("gates")
        #: HASH limiter -> its limits as the latest acquisition stated them, as JSON.
        self.limiter_settings = self._key("gates", "settings")
        #: ZSET "limiter|task|token|permit|acquired": the held permits.
        self.permits = self._key("gates", "places")
        #: ZSET "limiter|1|created|task": the tasks that wait for a permit, oldest first; see _limiters.lua.
        self.wait_queues = self._key("gates", "line")
        #: HASH task -> the awaited permit, as JSON.
        self.waiting = self._key("gates", "waiting")
        #: ZSET "limiter|acquired|task|permit|cost": the permits acquired within the limiter's window.
        self.acquisitions = self._key("gates", "calls")
        #: ZSET limiter -> the loop's next visit, in ms.
        self.limiters_due = self._key("gates", "due")
        #: ZSET "scope|fingerprint" of what limiters are called with -> when a worker last announced it, in ms.
        self.configured = self._key("gates", "configured")

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
        """HASH task id -> message, of the suspects; of tasks that workers of 0.1 met while their type was paused."""
        return self._key("parked", queue)

    def suspects(self, queue: str) -> str:
        """ZSET task id -> its first crash in ms, of the suspects that wait to run alone."""
        return self._key("suspects", queue)

    def called(self, queue: str) -> str:
        """LIST of queued tasks that permits were handed over to: they start first. A hint only."""
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

    def _key(self, *parts: str) -> str:
        return ":".join((self._tag, *parts))
