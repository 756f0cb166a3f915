"""Counters and histograms, with prometheus_client."""

from __future__ import annotations

import collections
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry

#: Upper bounds in seconds, for everything from a Redis call to an LLM call: 10 ms to 10 min.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: The label value beyond a metric's maximum of series: callers must not fill labels with made-up values.
OTHER = "other"
_MAX_SERIES = 500
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")

#: The metrics of this process.
registry = CollectorRegistry()
_lock = threading.Lock()
#: The metrics of all imported modules, by name.
declared: dict[str, Series] = {}

prometheus_client.disable_created_metrics()


class Series(dict[tuple[str, ...], Any]):
    """The series of one metric by their label values, each created at its first use."""

    def __init__(self, kind: str, name: str, help: str, labels: tuple[str, ...]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a metric's name; valid: small letters, digits and _")
        self.kind = kind
        self.labels = labels
        self._name = name
        self._help = help
        self._metric: prometheus_client.Counter | prometheus_client.Histogram | None = None

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        if len(labels) != len(self.labels):
            raise ValueError(f"{self._name} has the labels {self.labels}, not {len(labels)} of them")
        with _lock:
            about = self._name, self._help, self.labels
            if self._metric is None and self.kind == "counter":
                self._metric = prometheus_client.Counter(*about, registry=registry)
            elif self._metric is None:
                self._metric = prometheus_client.Histogram(*about, registry=registry, buckets=BUCKETS)
            if len(self) >= _MAX_SERIES and labels not in self:
                labels = (OTHER,) * len(labels)
            if labels not in self:
                self[labels] = self._metric.labels(*labels) if labels else self._metric
            return self[labels]

    def forget(self) -> None:
        """Drop all series; the next ones begin at zero."""
        with _lock:
            self.clear()
            if self._metric is not None:
                registry.unregister(self._metric)
                self._metric = None


class Counter:
    """A counter, named `..._total`, declared at the top of the module that counts it.

    A second declaration of a name with other labels raises ValueError.
    """

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self._series = _declare("counter", name, help, labels)

    def add(self, amount: float = 1.0, *values: str) -> None:
        """Count `amount` for these label values, in the order of `labels`."""
        if amount:
            self._series[values].inc(amount)


class Histogram:
    """A histogram of seconds, named `..._seconds`, declared like a counter."""

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self._series = _declare("histogram", name, help, labels)

    def observe(self, seconds: float, *values: str) -> None:
        """Count one duration for these label values, in the order of `labels`."""
        series, seconds = self._series[values], max(seconds, 0.0)
        series._sum.inc(seconds)  # as the library's own `observe`, without its search through the buckets
        series._buckets[bisect_left(BUCKETS, seconds)].inc(1)

    def observe_all(self, seconds: Sequence[float], *values: str) -> None:
        """Count durations with the same label values: written once, as each write takes longer than all of this."""
        series = self._series[values]
        counts = collections.Counter(bisect_left(BUCKETS, max(each, 0.0)) for each in seconds)
        series._sum.inc(sum(max(each, 0.0) for each in seconds))  # the library has no call for several
        for bucket, count in counts.items():
            series._buckets[bucket].inc(count)

    @contextmanager
    def time(self, *values: str) -> Iterator[None]:
        """Observe how long the block takes, also when it raises."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - since, *values)


def _declare(kind: str, name: str, help: str, labels: Sequence[str]) -> Series:
    series = declared.setdefault(name, Series(kind, name, help, tuple(labels)))
    if (series.kind, series.labels) != (kind, tuple(labels)):
        raise ValueError(f"the metric '{name}' is declared twice, with other labels or of another kind")
    return series
