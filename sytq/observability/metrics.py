"""Counting and timing: what this process has measured and not yet published.

Owns the two kinds of metric and the store of one process; as with logging, there is one per process, and counting
costs a dictionary entry. Must not talk to anything: `sytq.worker.loops.publisher` carries the numbers to Redis, where
those of all processes add up, and `sytq.service.prometheus` shows them.
"""

from __future__ import annotations

import bisect
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

#: Upper bounds in seconds, for everything from a Redis call to an LLM call: 10 ms to 10 min.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: What a label says whose metric has as many series as it may have: a label must not hold what callers make up.
OTHER = "other"
_MOST_SERIES = 500
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")

_declared: dict[str, Metric] = {}
_lock = threading.Lock()
#: (metric, label values, part) -> amount; the part is "" for a counter and the sum, else the bucket's bound.
_amounts: dict[tuple[str, tuple[str, ...], str], float] = {}
_series: dict[str, set[tuple[str, ...]]] = {}


class Metric:
    """A name, what it means and its labels. Declared once, at the top of the module that measures it.

    A second declaration of a name with other labels raises ValueError.
    """

    kind = ""
    labels: tuple[str, ...]

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a metric's name; valid: small letters, digits and _")
        known = _declared.get(name)
        if known is not None and (known.kind, known.labels) != (self.kind, tuple(labels)):
            raise ValueError(f"the metric '{name}' is declared twice, with other labels or of another kind")
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        _declared[name] = self

    def _count(self, amounts: Mapping[str, float], values: tuple[str, ...]) -> None:
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {len(values)} of them")
        with _lock:
            seen = _series.setdefault(self.name, set())
            if values not in seen:
                if len(seen) >= _MOST_SERIES:
                    values = (OTHER,) * len(values)
                seen.add(values)
            for part, amount in amounts.items():
                key = (self.name, values, part)
                _amounts[key] = _amounts.get(key, 0.0) + amount


class Counter(Metric):
    """Something that only grows. Its name ends in `_total`."""

    kind = "counter"

    def add(self, amount: float = 1.0, *values: str) -> None:
        """Count `amount` for these label values, in the order of `labels`."""
        if amount:
            self._count({"": amount}, values)


class Histogram(Metric):
    """Durations in seconds. Its name ends in `_seconds`."""

    kind = "histogram"

    def observe(self, seconds: float, *values: str) -> None:
        """Count one duration for these label values, in the order of `labels`."""
        seconds = max(seconds, 0.0)
        place = bisect.bisect_left(BUCKETS, seconds)
        bound = str(BUCKETS[place]) if place < len(BUCKETS) else "inf"
        self._count({"": seconds, bound: 1.0}, values)

    @contextmanager
    def time(self, *values: str) -> Iterator[None]:
        """Observe how long the block takes, also when it raises."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - since, *values)


def declared() -> Mapping[str, Metric]:
    """Every metric of the modules imported by now, by name."""
    return MappingProxyType(_declared)


def take() -> dict[str, float]:
    """Return what was counted since the last call, as fields of the hash in Redis."""
    with _lock:
        taken = {json.dumps(key, ensure_ascii=False): amount for key, amount in _amounts.items()}
        _amounts.clear()
    return taken


def put_back(taken: Mapping[str, float]) -> None:
    """Undo `take`: it could not be published."""
    with _lock:
        for field, amount in taken.items():
            name, values, part = json.loads(field)
            key = (name, tuple(values), part)
            _amounts[key] = _amounts.get(key, 0.0) + amount


def read(fields: Mapping[bytes, bytes]) -> dict[str, dict[tuple[str, ...], dict[str, float]]]:
    """Return published numbers by metric, label values and part; those of metrics not declared here are left out."""
    found: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
    for field, amount in fields.items():
        name, values, part = json.loads(field)
        metric = _declared.get(name)
        if metric is not None and len(values) == len(metric.labels):
            found.setdefault(name, {}).setdefault(tuple(values), {})[part] = float(amount)
    return found
