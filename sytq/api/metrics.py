"""/metrics: the whole installation in Prometheus' text, made of what the stores share.

Owns the metrics' names. Any process answers for all of them, so nothing here counts in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import falcon
import falcon.asgi
import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sytq.api.threads import Threads
from sytq.broker.gatestates import GateState, that_matter
from sytq.broker.inspection import Inspection
from sytq.errors import RedisUnavailable

log = structlog.get_logger(__name__)


class _Stores:
    """A prometheus_client collector that asks Redis at every scrape."""

    def __init__(self, inspection: Inspection, version: str, liveness: float) -> None:
        self._inspection = inspection
        self._version = version
        self._liveness = liveness

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("sytq_build_info", "The version that answers; always 1.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        try:
            known = list(self._ask())
            up = 1
        except RedisUnavailable as error:
            log.warning("metrics without Redis", error=str(error))
            known, up = [], 0
        yield GaugeMetricFamily("sytq_redis_up", "Whether Redis answered this scrape.", value=up)
        yield from known

    def _ask(self) -> Iterator[Metric]:
        tasks = CounterMetricFamily("sytq_tasks", "Tasks by type and outcome.", labels=["type", "outcome"])
        for (type_name, outcome), count in sorted(self._inspection.totals().items()):
            tasks.add_metric([type_name, outcome], count)
        yield tasks
        labels = ["queue", "priority"]
        waiting = GaugeMetricFamily("sytq_queue_waiting", "Tasks that wait for a worker.", labels=labels)
        running = GaugeMetricFamily("sytq_queue_running", "Tasks that a worker holds.", labels=labels)
        oldest = GaugeMetricFamily(
            "sytq_queue_oldest_seconds", "For how long the first waiting task has; 0 when none waits.", labels=labels
        )
        for depth in self._inspection.queues():
            waiting.add_metric([depth.queue, depth.priority], depth.waiting)
            running.add_metric([depth.queue, depth.priority], depth.running)
            oldest.add_metric([depth.queue, depth.priority], depth.oldest or 0.0)
        yield waiting
        yield running
        yield oldest
        delayed = GaugeMetricFamily(
            "sytq_queue_delayed", "Tasks that wait for their time or their next attempt.", labels=["queue"]
        )
        for queue, count in sorted(self._inspection.delayed().items()):
            delayed.add_metric([queue], count)
        yield delayed
        yield from _gates(that_matter(self._inspection.gates()))
        alive = sum(worker.age <= self._liveness for worker in self._inspection.workers())
        yield GaugeMetricFamily("sytq_workers", "Worker processes with a fresh heartbeat.", value=alive)


def _gates(gates: Iterable[GateState]) -> Iterator[Metric]:
    running = GaugeMetricFamily("sytq_gate_running", "Passages inside a gate.", labels=["gate"])
    limit = GaugeMetricFamily("sytq_gate_limit", "How many may be inside now; 0 is no limit.", labels=["gate"])
    waiting = GaugeMetricFamily("sytq_gate_waiting", "Tasks in line before a gate.", labels=["gate"])
    said = "1 for the state it is in: closed (calls pass), open, half_open, paused."
    state = GaugeMetricFamily("sytq_gate_state", said, labels=["gate", "state"])
    for gate in gates:
        running.add_metric([gate.name], gate.running)
        limit.add_metric([gate.name], gate.limit_now)
        waiting.add_metric([gate.name], gate.waiting)
        state.add_metric([gate.name, gate.state], 1)
    yield from (running, limit, waiting, state)


class Metrics:
    """GET /metrics"""

    def __init__(self, inspection: Inspection, version: str, liveness: float, threads: Threads) -> None:
        self._threads = threads
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Stores(inspection, version, liveness))
        self._last = b""
        self._fresh_until = 0.0

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        # Open to everyone, so at most one look at Redis a second is on us.
        if time.monotonic() >= self._fresh_until:
            self._last = await self._threads.run(generate_latest, self._registry)
            self._fresh_until = time.monotonic() + 1.0
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = self._last
