"""OpenTelemetry: where a trace begins, goes on and is handed over, as the rest of sytq sees it.

Owns the one place where this process asks whether there is any. Must not import opentelemetry, which is an optional
extra, before `start` has found that it is wanted: without `otel.endpoint` each function here is a look at a name.
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
    from sytq.observability.tracing.spans import Run, Spans

log = structlog.get_logger(__name__)

#: Tells the span of a request the route and the status of its answer.
Answered = Callable[[str, int], None]

_spans: Spans | None = None
_export: Export | None = None


def start(settings: Settings, process: str, version: str) -> None:
    """Begin to export from this process (api or worker), after a fork, if that is configured."""
    global _export, _spans
    if settings.otel.endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        from sytq.observability.tracing.export import Export
    except ImportError as error:  # an address that a whole cluster is given must not keep a service from its work
        log.error("otel.endpoint is set, but nothing is exported: pip install 'sytq[otel]'", error=str(error))
        return
    _export = Export(settings, process, version)
    _spans = _export.spans


def stop() -> None:
    """Send what is left, within a bound of a second, however the receiver is."""
    global _export, _spans
    if _export is not None:
        _export.stop()
    _export = _spans = None


def tracing() -> bool:
    """Whether this process makes spans."""
    return _spans is not None


def request(method: str, traceparent: str | None) -> AbstractContextManager[tuple[Answered, str | None]]:
    """A request of the API: the block says how it was answered, and gets the trace parent for what follows from it."""
    return nullcontext((nothing, traceparent)) if _spans is None else _spans.request(method, traceparent)


def created(task_id: str, type_name: str, queue: str, traceparent: str | None) -> str | None:
    """A task is made in the trace of `traceparent`, or begins one: the trace parent that it carries."""
    return traceparent if _spans is None else _spans.created(task_id, type_name, queue, traceparent)


def run(queue: str, started: float, traceparent: str | None, said: Mapping[str, str | int]) -> Run | None:
    """A run of a task begins (`started`, in Unix seconds); it ends in the same context. `said` are attributes."""
    return None if _spans is None else _spans.run(queue, started, traceparent, said)


def call(method: str, url: URL, headers: MutableMapping[str, str]) -> AbstractContextManager[Callable[[int], None]]:
    """An HTTP request of a run: the block says the status of the answer. Its trace parent is put into the `headers`,
    unless they name another trace."""
    return _UNTOLD if _spans is None else _spans.call(method, url, headers)


def nothing(*_: object) -> None:
    """Do nothing."""


_UNTOLD = nullcontext(nothing)
