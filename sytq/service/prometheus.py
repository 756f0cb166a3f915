"""The answer to a scrape: gauges of the whole installation, read from the stores, and metrics of this process group."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from sytq.broker.cards import Cards
from sytq.broker.inspection import Inspection
from sytq.broker.limiter_states import that_matter
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger import hold
from sytq.ledger.database import read
from sytq.ledger.ledger import Ledger
from sytq.observability.outages import DATABASE, log_failure
from sytq.observability.process_group import GroupCollector
from sytq.service.comparison import Comparison
from sytq.service.ledger_check import OK, LedgerCheck
from sytq.service.mismatches import KINDS, consumers, skews

log = structlog.get_logger(__name__)

#: The metrics from the stores: name -> labels and meaning. `sytq_tasks` is a counter, the others are gauges.
READ: Mapping[str, tuple[tuple[str, ...], str]] = {
    "sytq_build_info": (("version",), "The version that answers; always 1."),
    "sytq_redis_up": ((), "Whether Redis answered this scrape."),
    "sytq_database_up": ((), "Whether the database takes a submission."),
    "sytq_held": ((), "Whether the service is held: no task starts before an operator has looked."),
    "sytq_tasks_dead": ((), "Tasks in the ledger that are dead."),
    "sytq_tasks": (("type", "outcome"), "Tasks by type and outcome since this Redis was first seen."),
    "sytq_queue_waiting": (("queue", "priority"), "Tasks that wait for a worker."),
    "sytq_queue_running": (("queue", "priority"), "Tasks that a worker holds."),
    "sytq_queue_oldest_seconds": (("queue", "priority"), "For how long the first waiting task has; 0 when none waits."),
    "sytq_queue_delayed": (("queue",), "Tasks that wait for their time or their next attempt."),
    "sytq_queue_parked": (("queue",), "Tasks that wait for their paused type to resume."),
    "sytq_queue_suspects": (("queue",), "Tasks whose workers died twice, and which wait to run alone."),
    "sytq_queue_suspect_oldest_seconds": (("queue",), "Since the first crash of the first of them; 0 when none waits."),
    "sytq_queue_limit": (("queue",), "Most tasks that may run at once."),
    "sytq_type_paused": (("type",), "1 for every type that is paused."),
    "sytq_gate_running": (("gate",), "Permits of a limiter that are held."),
    "sytq_gate_limit": (("gate",), "Permits that may be held at once now; 0 is no limit."),
    "sytq_gate_waiting": (("gate",), "Tasks that wait for a permit of a limiter."),
    "sytq_gate_state": (("gate", "state"), "1 for the state it is in: closed (calls pass), open, half_open, paused."),
    "sytq_queue_consumers": (("queue",), "Worker processes that consume the queue."),
    "sytq_clock_skew_seconds": (("machine",), "Seconds by which the clock of a worker's machine leads that of Redis."),
    "sytq_mismatches": (("kind",), "What differs between processes and must not (`sytq doctor` names it)."),
    "sytq_workers": ((), "Worker processes with a fresh heartbeat."),
    "sytq_workers_lost": ((), "Worker processes of the last hour that fell silent without leaving."),
    "sytq_heartbeat_age_seconds": ((), "The age of the oldest heartbeat that is still fresh."),
    "sytq_recorder_waiting": ((), "Events that are not written to the ledger yet."),
    "sytq_recorder_lag_seconds": ((), "The age of the first of them; 0 when all are written."),
    "sytq_kept_results": ((), "Results of steps that wait in Redis for the database."),
    "sytq_unreadable": ((), "Messages and events set aside because they cannot be read or written."),
}
#: Minimum seconds between two reads of the stores, as /metrics is open to everyone.
_FRESH = 1.0
#: Longer for counting rows, whose cost grows with the ledger.
_FRESH_ROWS = 30.0


class Scrape(Collector):
    """Thread-safe."""

    def __init__(
        self,
        version: str,
        settings: Settings,
        ledger: Ledger,
        inspection: Inspection,
        cards: Cards,
        comparison: Comparison,
        ledger_check: LedgerCheck,
    ) -> None:
        self._version = version
        self._settings = settings
        self._ledger = ledger
        self._inspection = inspection
        self._cards = cards
        self._comparison = comparison
        self._ledger_check = ledger_check
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(GroupCollector())
        self._lock = threading.Lock()
        self._text = b""
        self._fresh_until = 0.0
        self._rows: list[Metric] = []
        self._rows_until = 0.0

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format, without those of an unavailable store."""
        with self._lock:
            if time.monotonic() >= self._fresh_until:
                self._text = generate_latest(self._registry)
                self._fresh_until = time.monotonic() + _FRESH
            return self._text

    def collect(self) -> Iterator[Metric]:
        build = _family("sytq_build_info")
        build.add_metric([self._version], 1)
        yield build
        try:
            known, up = list(self._of_redis()), 1
        except RedisUnavailable as error:
            log_failure(log, "metrics without Redis", error)
            known, up = [], 0
        yield _one("sytq_redis_up", up)
        yield from known
        state = self._ledger_check.state()
        if state != OK:
            DATABASE.failed(log, "metrics without the database", DatabaseUnavailable(state), "warning")
            self._rows, self._rows_until = list(self._of_processes()), 0.0
        elif time.monotonic() >= self._rows_until:
            self._rows = [*self._of_ledger(), *self._of_processes()]
            self._rows_until = time.monotonic() + _FRESH_ROWS
        yield _one("sytq_database_up", state == OK)
        yield from self._rows

    def _of_redis(self) -> Iterator[Metric]:
        asked = self._inspection
        tasks = CounterMetricFamily("sytq_tasks", READ["sytq_tasks"][1], labels=READ["sytq_tasks"][0])
        for (type_name, outcome), count in sorted(asked.totals().items()):
            tasks.add_metric([type_name, outcome], count)
        yield tasks
        waiting, running, oldest = (_family(f"sytq_queue_{name}") for name in ("waiting", "running", "oldest_seconds"))
        for depth in asked.queues():
            waiting.add_metric([depth.queue, depth.priority], depth.waiting)
            running.add_metric([depth.queue, depth.priority], depth.running)
            oldest.add_metric([depth.queue, depth.priority], depth.oldest or 0.0)
        yield from (waiting, running, oldest)
        yield _each("sytq_queue_delayed", asked.delayed())
        yield _each("sytq_queue_parked", asked.parked())
        suspects = asked.suspects()
        yield _each("sytq_queue_suspects", {queue: one.waiting for queue, one in suspects.items()})
        oldest_of = {queue: one.oldest or 0.0 for queue, one in suspects.items()}
        yield _each("sytq_queue_suspect_oldest_seconds", oldest_of)
        limits = {name: queue.limit for name, queue in self._settings.queue_limits.items() if queue.limit}
        yield _each("sytq_queue_limit", limits)
        yield _each("sytq_type_paused", dict.fromkeys(asked.paused(), 1))
        limiters = list(that_matter(asked.limiters()))
        yield _each("sytq_gate_running", {one.name: one.running for one in limiters if one.running is not None})
        yield _each("sytq_gate_limit", {limiter.name: limiter.limit_now for limiter in limiters})
        yield _each("sytq_gate_waiting", {limiter.name: limiter.waiting for limiter in limiters})
        states = _family("sytq_gate_state")
        for limiter in limiters:
            states.add_metric([limiter.name, limiter.state], 1)
        yield states
        living = self._cards.workers()
        if (counts := consumers(living, asked.names())) is not None:
            yield _each("sytq_queue_consumers", counts)
        yield _each("sytq_clock_skew_seconds", skews(living))
        ages = [worker.age for worker in asked.workers()]
        fresh = [age for age in ages if age <= self._settings.worker.liveness]
        yield _one("sytq_workers", len(fresh))
        yield _one("sytq_workers_lost", len(ages) - len(fresh))
        yield _one("sytq_heartbeat_age_seconds", max(fresh, default=0.0))
        unwritten = asked.unwritten()
        yield _one("sytq_recorder_waiting", unwritten.count)
        yield _one("sytq_recorder_lag_seconds", unwritten.age)
        yield _one("sytq_kept_results", asked.kept_results())
        yield _one("sytq_unreadable", unwritten.set_aside)

    def _of_ledger(self) -> Iterator[Metric]:
        try:
            dead, held = self._ledger.count_dead(), read(self._ledger.database, hold.held)
        except DatabaseUnavailable as error:
            DATABASE.failed(log, "metrics without the database", error, "warning")
            return
        yield _one("sytq_held", held is not None)
        yield _one("sytq_tasks_dead", dead)

    def _of_processes(self) -> Iterator[Metric]:
        try:
            found = Counter(mismatch.kind for mismatch in self._comparison.find())
        except RedisUnavailable:
            return  # the scrape has said so
        yield _each("sytq_mismatches", {kind: found[kind] for kind in KINDS})


def _family(name: str) -> GaugeMetricFamily:
    labels, meaning = READ[name]
    return GaugeMetricFamily(name, meaning, labels=labels)


def _one(name: str, value: float) -> Metric:
    family = _family(name)
    family.add_metric([], value)
    return family


def _each(name: str, values: Mapping[str, float]) -> Metric:
    family = _family(name)
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family
