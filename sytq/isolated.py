"""An isolated process: `python -m sytq.isolated NAME MAX_TASKS QUEUE...`, started by a worker's loop.

It runs suspects, the tasks whose workers died twice, away from all other tasks, and ends when none is left. What kills
it is soon among few and then alone (isolate.lua). It has a worker's types, middleware and heartbeat, and no loops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from sytq import config
from sytq.broker.delivery import Delivery
from sytq.broker.handover import QueueLimit
from sytq.broker.keys import GROUP
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.executor.broker import StreamsBroker
from sytq.executor.consumer import StreamConsumer
from sytq.exit_status import NONE_FOUND
from sytq.observability import logs
from sytq.runtime import Runtime, build
from sytq.states import PRIORITIES
from sytq.worker_runtime import boot

log = structlog.get_logger(__name__)

_TICK = 0.05
#: Seconds until a suspect of a type unknown to this process is tried again: each time costs a process.
_UNKNOWN_DELAY = 60.0


def main(name: str, max_tasks: str, *queues: str) -> int:
    settings = config.load()
    logs.configure(settings.logger.level, settings.log_format, "worker", settings.logger.fields)  # build logs, too
    with contextlib.suppress(OSError):  # the kernel ends this process rather than its parent when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    runtime = build(settings)
    broker = boot(runtime, isolated=name)
    logs.identify(worker_id=name)
    isolated = Isolated(broker, runtime, int(max_tasks), queues)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: broker.executor.stopping.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    isolated.run()
    if broker.executor.stopping.is_set():
        os._exit(0)  # threads of tasks may still run
    return 0 if isolated.found else NONE_FOUND


class Isolated:
    """Takes suspects, runs them, and takes the next when all have ended."""

    def __init__(self, broker: StreamsBroker, runtime: Runtime, max_tasks: int, queues: Sequence[str]) -> None:
        self.found = False  # whether it has run any
        self._broker = broker
        self._executor = broker.executor
        self._runtime = runtime
        self._max_tasks = max_tasks
        self._queues = queues
        self._parent = os.getppid()

    def run(self) -> None:
        executor, settings = self._executor, self._runtime.settings.worker
        self._broker.emit_after("process_boot")
        executor.start(threads=settings.threads, loop_slots=0)
        watchdog = executor.watch(lambda: (), lambda: None, settings.shutdown_timeout)
        try:
            while not executor.stopping.is_set() and os.getppid() == self._parent:
                try:
                    deliveries = self._take() if self._may_start() else []
                except RedisUnavailable as error:
                    # The lost reply may have had tasks: this worker leaves, and they are taken over.
                    log.warning("no suspects taken: Redis unavailable", error=str(error))
                    return
                if not deliveries and executor.idle:
                    return
                executor.event_loop.submit(deliveries)
                while not executor.idle and not executor.stopping.is_set():
                    time.sleep(_TICK)
        finally:
            watchdog.stop()
            executor.stopping.set()
            executor.stop(settings.shutdown_timeout)

    def _may_start(self) -> bool:
        try:
            return self._runtime.hold.look()
        except DatabaseUnavailable:
            return True  # by the last look of the worker that started this process

    def _take(self) -> list[Delivery]:
        executor, keys = self._executor, self._runtime.keys
        names = [keys.live, keys.events, keys.workers, keys.epoch, keys.paused, keys.crashes]
        args: list[Any] = [GROUP, executor.name, int(executor.lease * 1000), self._max_tasks]
        for queue in self._queues:
            names += [keys.suspects(queue), keys.parked(queue), keys.rate(queue)]
            names += [keys.stream(queue, priority) for priority in PRIORITIES]
            args += executor.limits.get(queue, QueueLimit()).args
        asked = time.monotonic()
        found = [(names[item[0] - 1], *item[1:]) for item in self._runtime.redis.call("isolate", names, args)]
        deliveries = []
        for queue in self._queues:
            items = [item for item in found if item[0] in keys.streams(queue)]
            deliveries += StreamConsumer(executor, queue, self._broker.actors).read(items, unknown_delay=_UNKNOWN_DELAY)
        for delivery in deliveries:
            delivery.held_at = asked
        if found:
            self.found = True
            log.info("suspects started", tasks=len(found))
        return deliveries


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
