"""Exports spans with OTLP over HTTP, by the standard's environment variables.

Whatever the receiver does, nothing here may delay a task, nor the end of the process by more than a second.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
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
        about = Resource(
            {
                "service.name": f"sytq-{process}",
                "service.version": version,
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                "deployment.environment.name": settings.app.mode,
            }
        )
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        resource = Resource.create().merge(about).merge(OTELResourceDetector().detect())
        own = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        endpoint = own or f"{settings.otel.endpoint}/v1/traces"
        headers = {name: value.get_secret_value() for name, value in settings.otel.headers.items()}
        exporter = OTLPSpanExporter(endpoint=endpoint, headers=headers or None)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Logged(exporter, endpoint)))
        # For plugins that make their own spans.
        trace.set_tracer_provider(self._provider)
        self.spans = Spans(self._provider.get_tracer("sytq", version))

    def stop(self) -> None:
        """Send what is left, for a second at most."""
        # The provider would wait for 30 s; as a daemon its thread ends with the process.
        ending = threading.Thread(target=self._provider.shutdown, name="otel-end", daemon=True)
        ending.start()
        ending.join(_TIMEOUT)


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
