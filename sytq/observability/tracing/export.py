"""Exports spans with OTLP over HTTP, by the standard's environment variables.

Whatever the receiver does, nothing here may delay a task, nor the end of the process by more than a second.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from sytq.config import Settings
from sytq.observability.tracing.spans import Spans

log = structlog.get_logger(__name__)

#: Seconds that an ending process waits for the receiver.
_TIMEOUT = 1.0


class Export:
    """The export of one process, which starts with construction."""

    def __init__(self, settings: Settings, process: str, version: str) -> None:
        # Their log lines contain the receiver's whole URL, once for every span while it is unavailable.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._settings = settings.otel
        self._about = {"service.version": version, "deployment.environment.name": settings.app.mode}
        self._provider: TracerProvider | None = None
        self.spans: Spans | None = None
        if _exported("TRACES"):
            instance = f"{socket.gethostname()}-{os.getpid()}"
            self._provider = TracerProvider(
                resource=self._resource(f"sytq-{process}", {"service.instance.id": instance}), shutdown_on_exit=False
            )
            exporter = OTLPSpanExporter(endpoint=self._endpoint("traces"), headers=self._headers())
            self._provider.add_span_processor(BatchSpanProcessor(_Logged(exporter, self._endpoint("traces"))))
            # For plugins that make their own spans.
            trace.set_tracer_provider(self._provider)
            self.spans = Spans(self._provider.get_tracer("sytq", version))

    def stop(self) -> None:
        """Send what is left, for a second at most."""
        if self._provider is not None:
            # It would wait for 30 s; as a daemon it ends with the process.
            ending = threading.Thread(target=self._provider.shutdown, name="otel-end", daemon=True)
            ending.start()
            ending.join(_TIMEOUT)

    def _endpoint(self, signal: str) -> str:
        own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        return own or f"{self._settings.endpoint}/v1/{signal}"

    def _headers(self) -> dict[str, str] | None:
        return {name: value.get_secret_value() for name, value in self._settings.headers.items()} or None

    def _resource(self, name: str, more: Mapping[str, str]) -> Resource:
        """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
        ours = Resource({"service.name": name, **self._about, **more})
        return Resource.create().merge(ours).merge(OTELResourceDetector().detect())


def _exported(signal: str) -> bool:
    return os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() != "none"


class _Logged(SpanExporter):
    """Logs once when the receiver fails, and once when it recovers."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._log = log.bind(kind="traces", host=urlsplit(endpoint).hostname)
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            self._log.warning("telemetry cannot be exported; tasks go on, and what is not taken is dropped")
        elif self._failing and not failed:
            self._log.info("telemetry is exported again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
