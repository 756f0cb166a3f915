"""Acknowledgements: the outcomes of attempts are written to Redis, in batches, until Redis has taken them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import structlog
from pydantic_core import to_json

from sytq import clock
from sytq.batcher import Batcher
from sytq.broker.connection import Redis
from sytq.broker.delivery import STATES, Delivery, Outcome, cancellation, named
from sytq.broker.keys import GROUP, Keys
from sytq.broker.limiters import Limiters, log_changes, state_keys
from sytq.errors import RedisUnavailable
from sytq.executor import measure
from sytq.observability.outages import log_failure

log = structlog.get_logger(__name__)

_BATCH = 200
#: How long (seconds) and how many (bytes) ends are kept after Redis took them. The recorder normally writes them to SQL
#: within a second; if Redis is emptied before, they are written again.
_KEPT = 10.0
_KEPT_BYTES = 16 << 20
_END_BYTES = 1000  # of an end without its event
_ENDS = ("done", "dead", "cancelled")


class _End(NamedTuple):
    """The arguments of ack.lua about a task's end: texts and numbers alone, as the latest thousands are kept."""

    queue: tuple[str, str]  # stream and queue
    id: str
    type: str
    entry: bytes
    token: int
    kind: str
    attempts: int
    delay_ms: int
    event: bytes
    body: bytes | str  # of the next attempt
    limited: int
    cancelled: bytes  # the event where a retry ends because the task's cancellation was requested
    permits: str  # to release
    wanted: str  # the permit that the task waits for


class Acks:
    """The next batch gathers while one is written: busy workers share round trips, idle workers do not wait."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        redis: Redis,
        keys: Keys,
        consumer: str,
        limited: Collection[str],
        limiters: Limiters,
        acked: Callable[[Sequence[Delivery]], None],
    ) -> None:
        self._loop = loop
        self._redis = redis
        self._keys = keys
        self._consumer = consumer
        self._limited = limited  # queues with a limit, whose waiters are notified when a task ends
        self._limiters = limiters
        self._acked = acked
        self._batcher: Batcher[Delivery | _End, None] = Batcher(self._process, name="acknowledgements", max_size=_BATCH)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="acks")
        self._taken: collections.deque[tuple[float, int, _End]] = collections.deque()
        self._taken_bytes = 0
        self._lock = threading.Lock()

    def put(self, delivery: Delivery) -> None:
        """Acknowledge an attempt with the next batch. Called on the event loop."""
        delivery.ended = clock.now()
        self._batcher.put(delivery)

    def forget(self) -> None:
        """Drop the ends that SQL has by now; call it only while Redis was not emptied."""
        with self._lock:
            self._forget(lambda at: at < time.monotonic() - _KEPT)

    def repeat(self) -> None:
        """Acknowledge the latest ends again: Redis was emptied, perhaps before SQL had them."""
        with self._lock:
            taken = [end for _, _, end in self._taken]
            self._taken.clear()
            self._taken_bytes = 0
        for end in taken:
            self._loop.call_soon_threadsafe(self._batcher.put, end)

    def stop(self, timeout: float) -> bool:
        """Write the waiting outcomes, for at most `timeout` seconds. False when some were left."""
        written = asyncio.run_coroutine_threadsafe(self._batcher.drain(), self._loop)
        with contextlib.suppress(TimeoutError):
            written.result(timeout)
        return written.done()

    async def _process(self, batch: list[Delivery | _End]) -> list[None]:
        pause, again = 0.05, False
        while True:
            try:
                if not again:
                    measure.ran([run for run in batch if isinstance(run, Delivery) and run.passing])
                await self._loop.run_in_executor(self._thread, self._write, batch, again)
                return [None] * len(batch)
            except RedisUnavailable as error:
                # The work must not be repeated: its outcome stays here until Redis answers.
                log_failure(log, "acknowledgements postponed: Redis unavailable", error, waiting=len(batch))
            except Exception:
                log.critical("acknowledgements failed", exc_info=True)
                self._loop.stop()  # the watchdog ends the process
                return [None] * len(batch)
            await asyncio.sleep(pause)
            pause, again = min(pause * 2, 1.0), True

    def _write(self, batch: list[Delivery | _End], again: bool) -> None:
        slots: dict[tuple[str, str], int] = {}
        runs = [one for one in batch if isinstance(one, Delivery)]
        # The queues of the tasks that the released permits may be handed over to.
        limited = any(run.permit or (run.outcome and run.outcome.permit) for run in runs)
        of_queues, queues = self._limiters.handover.keys_and_args() if limited else ([], [0])
        args: list[str | bytes | int] = [GROUP, self._consumer, self._limiters.liveness_ms, *queues]
        ends = [self._end(one) if isinstance(one, Delivery) else one for one in batch]
        for end in ends:
            args += [slots.setdefault(end.queue, len(slots) + 1), *end[1:]]
        keys = self._keys
        names = [keys.live, keys.events, keys.stats, keys.bell, keys.deadletters, keys.cancels, keys.epoch]
        names += [keys.crashes, keys.workers, *state_keys(keys), *of_queues]
        for stream, queue in slots:
            names += [stream, keys.delayed(queue), keys.bodies(queue), keys.queue_bell(queue)]
        answers = self._redis.call("ack", names, args)
        log_changes(answers[len(batch) :])
        for run, done in zip(batch, answers, strict=False):
            if isinstance(run, _End):
                continue
            if run.permit is not None:
                self._limiters.released(run.permit)
            if not done:
                # An earlier call may have reached Redis, and its reply was lost or the rest of it refused.
                said, write = ("taken before, or the task", log.info) if again else ("dropped: the task", log.warning)
                write(f"outcome {said} belongs to another attempt", task_id=run.id, token=run.token)
        # The permits are released by now.
        taken = [end for end, done in zip(ends, answers, strict=False) if done and end.kind in _ENDS]
        self._keep([end._replace(permits="") if end.permits else end for end in taken])
        self._acked(runs)

    def _end(self, run: Delivery) -> _End:
        outcome = run.outcome or Outcome("retry", delay=5.0, error="the run ended without an outcome")
        attempts = run.attempts if outcome.consumes_attempt else max(run.attempts - 1, 0)
        return _End(
            queue=(run.stream, run.queue_name),
            id=run.id,
            type=run.type,
            entry=run.entry,
            token=run.token,
            kind=outcome.kind if outcome.consumes_attempt or outcome.kind != "retry" else "wait",
            attempts=attempts,
            delay_ms=int(outcome.delay * 1000),
            event=end_event(run, outcome, attempts, self._consumer),
            body="" if outcome.kind in _ENDS else run.next_body,
            limited=int(run.queue_name in self._limited),
            cancelled=end_event(run, Outcome("cancelled", error=cancellation(run)), attempts, self._consumer)
            if outcome.kind in ("retry", "return")
            else b"",
            permits=_permits(run),
            wanted=outcome.permit.wanted(None if run.stepped else run.permit) if outcome.permit else "",
        )

    def _keep(self, ends: Sequence[_End]) -> None:
        sized = [(time.monotonic(), _END_BYTES + len(end.event), end) for end in ends]
        with self._lock:
            self._taken.extend(sized)
            self._taken_bytes += sum(size for _, size, _ in sized)
            self._forget(lambda _: self._taken_bytes > _KEPT_BYTES)

    def _forget(self, obsolete: Callable[[float], bool]) -> None:
        while self._taken and obsolete(self._taken[0][0]):
            self._taken_bytes -= self._taken.popleft()[1]


def _permits(run: Delivery) -> str:
    """Return what ack.lua releases."""
    permit = run.permit
    if permit is None or permit.acquired_ms is None:
        return ""
    return " ".join((permit.outcome, f"{permit.acquired_ms} {int(permit.reserved)} {int(permit.cost)}", *permit.limits))


def end_event(run: Delivery, outcome: Outcome, attempts: int, worker: str) -> bytes:
    """Return the data of the event of an attempt's end, as the recorder reads it; most have six values."""
    now, started = int(clock.now() * 1000), int(run.started * 1000)
    event = {
        "state": STATES[outcome.kind],
        "attempts": attempts,
        "worker": worker,
        "outcome": named(outcome),
        "started": started,
        "finished": int(run.ended * 1000),
    }
    more = {
        "due": now + int(outcome.delay * 1000) if outcome.kind == "retry" else None,
        "result": outcome.result,
        "error": outcome.error,
        "fingerprint": outcome.fingerprint,
        "progress": run.progress,
        "detail": run.detail | run.waits.recorded(started, runs_again=outcome.kind == "retry"),
    }
    event |= {name: value for name, value in more.items() if value}
    try:
        return to_json(event)  # takes a tenth of `json.dumps`
    except ValueError:  # half a surrogate pair, or nested deeper than it goes
        return json.dumps(event).encode()
