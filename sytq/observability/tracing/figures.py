"""The metrics of the installation, as `/metrics` has them, in the form of OpenTelemetry.

Owns the conversion. Must not measure anything: what the conventions name otherwise is the same numbers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping

import prometheus_client
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sytq.observability.tracing.spans import SYSTEM

_CUMULATIVE = AggregationTemporality.CUMULATIVE
#: When a series began is not known; 0 says so.
_BEGAN = 0


def convert(families: Iterable[prometheus_client.Metric], resource: Resource, queues: Mapping[str, str]) -> MetricsData:
    """Everything under its own name, and what the messaging conventions know under theirs as well; `queues` has the
    queue of each task type."""
    families, now = list(families), time.time_ns()
    metrics = [*(_converted(family, now) for family in families), *_conventional(families, queues, now)]
    scope = ScopeMetrics(InstrumentationScope("sytq"), [one for one in metrics if one.data.data_points], "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _converted(family: prometheus_client.Metric, now: int) -> Metric:
    if family.type == "histogram":
        return Metric(family.name, family.documentation, "s", Histogram(list(_distributions(family, now)), _CUMULATIVE))
    points = [_point(sample.value, now, sample.labels) for sample in family.samples]
    if family.type == "counter":
        return Metric(f"{family.name}_total", family.documentation, "", Sum(points, _CUMULATIVE, True))
    return Metric(family.name, family.documentation, "", Gauge(points))


def _distributions(family: prometheus_client.Metric, now: int) -> Iterator[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        part = sample.labels.get("le") or sample.name.rpartition("_")[2]
        series.setdefault(tuple(labels.items()), {})[part] = sample.value
    for key, parts in series.items():
        cumulated = [(float(bound), int(parts[bound])) for bound in parts if bound not in ("sum", "count")]
        below = [0, *(count for _, count in cumulated)]
        counts = [count - before for (_, count), before in zip(cumulated, below, strict=False)]
        yield HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=_BEGAN,
            time_unix_nano=now,
            count=int(parts["count"]),
            sum=parts["sum"],
            bucket_counts=counts,
            explicit_bounds=[bound for bound, _ in cumulated[:-1]],
            min=None,  # type: ignore[arg-type]  # not known, which OTLP allows
            max=None,  # type: ignore[arg-type]
        )


def _conventional(
    families: Iterable[prometheus_client.Metric], queues: Mapping[str, str], now: int
) -> Iterator[Metric]:
    for family in families:
        if family.name == "sytq_tasks":
            sent = [
                _point(sample.value, now, _said("send", queues.get(sample.labels["type"]), type=sample.labels["type"]))
                for sample in family.samples
                if sample.labels["outcome"] == "submitted"
            ]
            yield _total("messaging.client.sent.messages", "Tasks that were submitted.", sent)
        elif family.name == "sytq_task_wait_seconds":
            begun = [
                _point(sample.value, now, _said("process", sample.labels["queue"], priority=sample.labels["priority"]))
                for sample in family.samples
                if sample.name.endswith("_count")
            ]
            yield _total("messaging.client.consumed.messages", "Runs of tasks that began.", begun)
        elif family.name == "sytq_task_seconds":
            runs = []
            for run in _distributions(family, now):
                labels = {name: str(value) for name, value in (run.attributes or {}).items()}
                said = _said("process", queues.get(labels["type"]), **labels)
                if labels["outcome"] in ("failed", "dead"):
                    said["error.type"] = "_OTHER"  # which one, the spans know
                runs.append(dataclasses.replace(run, attributes=said))
            yield Metric("messaging.process.duration", family.documentation, "s", Histogram(runs, _CUMULATIVE))


def _said(operation: str, queue: str | None, **labels: str) -> dict[str, str]:
    said = {"messaging.system": SYSTEM, "messaging.operation.name": operation}
    if queue is not None:
        said["messaging.destination.name"] = queue
    return said | {f"sytq.task.{name}": value for name, value in labels.items()}


def _point(value: float, now: int, said: Mapping[str, str]) -> NumberDataPoint:
    return NumberDataPoint(said, _BEGAN, now, float(value))


def _total(name: str, about: str, points: list[NumberDataPoint]) -> Metric:
    return Metric(name, about, "{message}", Sum(points, _CUMULATIVE, True))
