"""Spans by the semantic conventions for messaging and HTTP.

A span must not contain payloads, results, prompts, headers, paths or queries of URLs, nor the text of an exception,
which may quote any of these.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import Token

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from structlog.contextvars import get_contextvars
from yarl import URL

from sytq.observability.tracing import Answered, nothing

SYSTEM = "sytq"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})


class Spans:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def request(self, method: str, traceparent: str | None) -> Iterator[tuple[Answered, str | None]]:
        said = {"http.request.method": _known(method)}
        if request_id := get_contextvars().get("request_id"):
            said["sytq.request_id"] = request_id
        span = self._tracer.start_span(_name(method), _below(traceparent), SpanKind.SERVER, said)

        def answered(route: str, status: int) -> None:
            span.update_name(f"{_name(method)} {route}")
            span.set_attributes({"http.route": route, "http.response.status_code": status})
            if status >= 500:
                _failed(span, str(status))

        try:
            yield answered, traceparent_of(span)
        finally:
            span.end()

    def created(self, task_id: str, type_name: str, queue: str, traceparent: str | None) -> str:
        """An instantaneous span: the conventions' "create" of messages sent in batches."""
        said = _messaging("create", queue) | {"messaging.message.id": task_id, "sytq.task.type": type_name}
        span = self._tracer.start_span(f"create {queue}", _below(traceparent), SpanKind.PRODUCER, said)
        span.end()
        return traceparent_of(span)

    def run(self, queue: str, started: float, traceparent: str | None, said: Mapping[str, str | int]) -> Run:
        """A child of the task's creation, so that a task is one trace, and linked to it, as conventions require."""
        above = _below(traceparent)
        maker = trace.get_current_span(above).get_span_context()
        return Run(
            self._tracer.start_span(
                f"process {queue}",
                above,
                SpanKind.CONSUMER,
                _messaging("process", queue) | {**said},
                [Link(maker)] if maker.is_valid else [],
                start_time=int(started * 1e9),
            )
        )

    @contextmanager
    def call(self, method: str, url: URL, headers: MutableMapping[str, str]) -> Iterator[Callable[[int], None]]:
        run = trace.get_current_span().get_span_context()
        given = headers.get("traceparent")
        if not run.is_valid or (given is not None and _context(given).trace_id != run.trace_id):
            yield nothing
            return
        said: dict[str, str | int] = {"http.request.method": _known(method), "url.scheme": url.scheme}
        said |= {"server.address": url.host or "", "server.port": url.port or 0}
        span = self._tracer.start_span(_name(method), kind=SpanKind.CLIENT, attributes=said)
        headers["traceparent"] = traceparent_of(span)
        known: int | None = None

        def answered(status: int) -> None:
            nonlocal known
            known = status
            span.set_attribute("http.response.status_code", status)
            if status >= 400:
                _failed(span, str(status))

        try:
            yield answered
        except BaseException as error:
            # A reader leaves a stream when it has enough or waited too long, which the attempt's span shows.
            if known is None or not isinstance(error, asyncio.CancelledError | GeneratorExit):
                _failed(span, type(error).__qualname__)
            raise
        finally:
            span.end()


class Run:
    """The span of an attempt, current from its construction to `end`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Context] = contexts.attach(trace.set_span_in_context(span))
        self.traceparent = traceparent_of(span)

    def end(self, outcome: str | None, failed: str | None) -> None:
        """End with an outcome (None: skipped) and, after a failure, the kind of error."""
        contexts.detach(self._token)
        if outcome is not None:
            self._span.set_attribute("sytq.task.outcome", outcome)
        if failed is not None:
            _failed(self._span, failed)
        self._span.end()


def traceparent_of(span: Span) -> str:
    """The W3C trace parent of a span."""
    about = span.get_span_context()
    return f"00-{about.trace_id:032x}-{about.span_id:016x}-{about.trace_flags & 1:02x}"


def _below(traceparent: str | None) -> Context:
    """The context below a trace parent, independent of the caller's context."""
    return trace.set_span_in_context(NonRecordingSpan(_context(traceparent)), Context())


def _context(traceparent: str | None) -> SpanContext:
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None:
        return trace.INVALID_SPAN_CONTEXT
    sampled = TraceFlags(int(match[3], 16) & TraceFlags.SAMPLED)
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=sampled)


def _known(method: str) -> str:
    return method.upper() if method.upper() in _METHODS else "_OTHER"


def _name(method: str) -> str:
    """The name of a request's span, before its route."""
    return _known(method).replace("_OTHER", "HTTP")


def _messaging(operation: str, queue: str) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
    }


def _failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
