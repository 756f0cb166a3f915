"""OpenTelemetry for the rest of sytq: without `otel.endpoint` each function here does nothing.

Must not import opentelemetry, an optional extra, before `start` finds it configured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog

from sytq.config import Settings

if TYPE_CHECKING:
    from yarl import URL

    from sytq.observability.tracing.export import Export
    from sytq.observability.tracing.spans import Run

log = structlog.get_logger(__name__)

#: Called with the route and the status of a request's response.
Answered = Callable[[str, int], None]

_export: Export | None = None


def start(settings: Settings, process: str, version: str) -> None:
    """Begin to export from this process (api or worker) if configured; call it after a fork."""
    global _export
    if settings.otel.endpoint is None or _variable("OTEL_SDK_DISABLED") == "true":
        return
    if _variable("OTEL_TRACES_EXPORTER") == "none":
        return
    try:
        from sytq.observability.tracing.export import Export
    except ImportError as error:  # an address set for a whole cluster must not stop a service
        log.error("otel.endpoint is set, but nothing is exported: pip install 'sytq[otel]'", error=str(error))
        return
    _export = Export(settings, process, version)


def stop() -> None:
    """Send what is left, for a second at most, whatever the receiver does."""
    global _export
    if _export is not None:
        _export.stop()
    _export = None


def tracing() -> bool:
    """Whether this process makes spans."""
    return _export is not None


def request(method: str, traceparent: str | None) -> AbstractContextManager[tuple[Answered, str | None]]:
    """A span of an API request; yields a callback for route and status, and the trace parent of its tasks."""
    return nullcontext((nothing, traceparent)) if _export is None else _export.spans.request(method, traceparent)


def created(task_id: str, type_name: str, queue: str, traceparent: str | None) -> str | None:
    """Record a new task, in the trace of `traceparent` or a new one; return the task's trace parent."""
    return traceparent if _export is None else _export.spans.created(task_id, type_name, queue, traceparent)


def run(queue: str, started: float, traceparent: str | None, said: Mapping[str, str | int]) -> Run | None:
    """Begin an attempt's span at `started` (Unix seconds); end it in the same context. `said` are attributes."""
    return None if _export is None else _export.spans.run(queue, started, traceparent, said)


def call(method: str, url: URL, headers: MutableMapping[str, str]) -> AbstractContextManager[Callable[[int], None]]:
    """A span of an HTTP request of an attempt; yields a callback for the status. Adds the trace parent to `headers`,
    unless they have one."""
    return _UNTOLD if _export is None else _export.spans.call(method, url, headers)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def nothing(*_: object) -> None:
    """Do nothing."""


_UNTOLD = nullcontext(nothing)
