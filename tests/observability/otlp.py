"""A fake OpenTelemetry collector that keeps its spans: OTLP over HTTP on loopback, in its own thread."""

from __future__ import annotations

import http.server
import threading
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.servers import poll


@dataclass(frozen=True)
class Seen:
    """A span as it came; ids are in hex."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    failed: bool
    said: dict[str, Any]
    service: str
    seconds: float


class Collector:
    """`spans` are the received spans, `raw` all received bytes, `headers` the headers of the last request."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Seen] = []
        self.raw = b""
        self.headers: dict[str, str] = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
                self.raw += body
                self.headers = {name.lower(): value for name, value in handler.headers.items()}
                if handler.path == "/v1/traces":
                    self.spans += _spans(body)
                handler.send_response(200)
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, name: str, **said: Any) -> list[Seen]:
        """The spans of this name with these attributes; `__` in a key means a dot."""
        wanted = {key.replace("__", "."): value for key, value in said.items()}
        return [span for span in list(self.spans) if span.name == name and wanted.items() <= span.said.items()]

    def wait(self, name: str, count: int = 1, **said: Any) -> list[Seen]:
        poll(
            lambda: len(self.of(name, **said)) >= count,
            timeout=60,
            message=lambda: f"{count} '{name}' {said} of {[(s.name, s.said) for s in self.spans]}",
        )
        return self.of(name, **said)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, str(pair.value.WhichOneof("value")))


def _spans(body: bytes) -> list[Seen]:
    sent = ExportTraceServiceRequest.FromString(body)
    return [
        Seen(
            name=span.name,
            kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
            failed=span.status.code == Status.STATUS_CODE_ERROR,
            said=attributes(span.attributes),
            service=attributes(resource.resource.attributes)["service.name"],
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        )
        for resource in sent.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
