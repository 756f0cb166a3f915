"""A background loop: its thread, its pace, its lease and its faults."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.executor.watchdog import turn
from sytq.observability.metrics import Counter
from sytq.observability.outages import log_failure
from sytq.service.hold import Hold

log = structlog.get_logger(__name__)

_FAILED = Counter("sytq_loop_failures_total", "Steps of a housekeeping loop that a fault of ours ended.", ("loop",))
#: Milliseconds of a holder's silence before another worker takes its loop.
_LEASE_MS = 3000
#: Seconds between two looks whether a loop may work now.
_NOT_ADMITTED = 0.1
#: Seconds between two looks at the hold.
_HELD = 0.5
#: Seconds of a pause, at most, without a turn: the watchdog ends a process whose thread makes none for a minute.
_TURN = 10.0


class Loop(threading.Thread):
    """Calls `step` until stopped; with a `hold` only while it lets tasks start."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._stopping = threading.Event()
        self.admitted: threading.Event | None = None  # steps wait while it is not set
        self.hold: Hold | None = None  # of a loop that brings tasks from elsewhere to Redis

    def step(self) -> float:
        """Do one bounded piece of work and return the pause after it in seconds."""
        raise NotImplementedError

    def end(self) -> None:
        """End after the current step; does not wait for it."""
        self._stopping.set()

    def run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(min(pause, _TURN)):
            turn()
            if (pause := pause - _TURN) > 0:
                continue
            if self.admitted is not None and not self.admitted.is_set():
                pause = _NOT_ADMITTED
                continue
            try:
                pause = self.step() if self.hold is None or self.hold.look() else _HELD
            except (RedisUnavailable, DatabaseUnavailable) as error:
                log_failure(log, "loop waits", error, loop=self.name)
                pause = 1.0
            except Exception:
                _FAILED.add(1, self.name)
                log.exception("loop failed; it goes on", loop=self.name)
                pause = 1.0


class LeasedLoop(Loop):
    """A loop that runs in one worker at a time. Two may overlap for a moment after a stall, so steps are idempotent."""

    def __init__(self, name: str, redis: Redis, keys: Keys, holder: str) -> None:
        super().__init__(name)
        self.redis = redis
        self.keys = keys
        self._holder = holder
        self.fresh = True  # whether this step took the lease anew
        self._continues = False  # whether the step before succeeded; if not, another may have held the lease meanwhile

    def work(self) -> float:
        """Do one bounded piece of work while the lease is held, and return the pause after it in seconds."""
        raise NotImplementedError

    def step(self) -> float:
        self.fresh, self._continues = not self._continues, False
        if not self.redis.call("lease", [self.keys.lease(self.name)], [self._holder, _LEASE_MS]):
            return 1.0
        pause = self.work()
        self._continues = True
        return pause

    def run(self) -> None:
        super().run()
        try:  # let another worker continue at once
            if self.redis.ask("GET", self.keys.lease(self.name)) == self._holder.encode():
                self.redis.ask("DEL", self.keys.lease(self.name))
        except RedisUnavailable:
            log.debug("lease left to expire", loop=self.name)


class PluginLoop(LeasedLoop):
    """A loop that a plugin brings."""

    def __init__(self, name: str, redis: Redis, keys: Keys, holder: str, work: Callable[[], float]) -> None:
        super().__init__(name, redis, keys, holder)
        self._work = work

    def work(self) -> float:
        return self._work()
