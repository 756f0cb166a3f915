"""How spans and metrics leave the process: OTLP over HTTP, by the standard's environment variables.

Owns the SDK's set-up, the threads that send and the end of both. Whatever the receiver does, nothing here may hold up
a task, nor the end of the process for more than a second.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import Metric

from sytq.config import Settings
from sytq.observability.tracing.figures import convert
from sytq.observability.tracing.spans import Spans

log = structlog.get_logger(__name__)

#: Seconds that the end of a process waits for the receiver.
_PATIENCE = 1.0
_INTERVAL_MS = 60_000.0


class Export:
    """What one process sends; begins with this."""

    def __init__(self, settings: Settings, process: str, version: str) -> None:
        # Their own lines name the receiver's whole URL, once for every span while it is away.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._settings = settings.otel
        self._about = {"service.version": version, "deployment.environment.name": settings.app.mode}
        self._measuring: _Measuring | None = None
        self._provider: TracerProvider | None = None
        self.spans: Spans | None = None
        if _exported("TRACES"):
            instance = f"{socket.gethostname()}-{os.getpid()}"
            self._provider = TracerProvider(
                resource=self._resource(f"sytq-{process}", {"service.instance.id": instance}), shutdown_on_exit=False
            )
            exporter = OTLPSpanExporter(endpoint=self._endpoint("traces"), headers=self._headers())
            self._provider.add_span_processor(BatchSpanProcessor(_Spoken(exporter, self._endpoint("traces"))))
            # A plugin that makes spans of its own finds them here.
            trace.set_tracer_provider(self._provider)
            self.spans = Spans(self._provider.get_tracer("sytq", version))

    def measure(
        self, figures: Callable[[], Iterable[Metric]], held: Callable[[float], bool], queues: Mapping[str, str]
    ) -> None:
        """As `sytq.observability.tracing.measure`."""
        if _exported("METRICS"):
            exporter = OTLPMetricExporter(endpoint=self._endpoint("metrics"), headers=self._headers())
            # The same whichever process sends them: they are those of the installation.
            resource = self._resource("sytq", {})
            told = _Told("metrics", self._endpoint("metrics"))

            def send() -> None:
                data = convert(figures(), resource, queues)
                told.of(exporter.export(data) is MetricExportResult.SUCCESS)

            self._measuring = _Measuring(send, held)
            self._measuring.start()

    def stop(self) -> None:
        """As `sytq.observability.tracing.stop`."""
        if self._measuring is not None:
            self._measuring.end()
        if self._provider is not None:
            # It would wait for 30 s; this way what it waits for ends with the process.
            ending = threading.Thread(target=self._provider.shutdown, name="otel-end", daemon=True)
            ending.start()
            ending.join(_PATIENCE)

    def _endpoint(self, signal: str) -> str:
        own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        return own or f"{self._settings.endpoint}/v1/{signal}"

    def _headers(self) -> dict[str, str] | None:
        return {name: value.get_secret_value() for name, value in self._settings.headers.items()} or None

    def _resource(self, name: str, more: Mapping[str, str]) -> Resource:
        """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say more than we know."""
        ours = Resource({"service.name": name, **self._about, **more})
        return Resource.create().merge(ours).merge(OTELResourceDetector().detect())


def _exported(signal: str) -> bool:
    return os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() != "none"


class _Told:
    """Says once that the receiver takes nothing, and once that it does again."""

    def __init__(self, kind: str, endpoint: str) -> None:
        self._log = log.bind(kind=kind, host=urlsplit(endpoint).hostname)
        self._failing = False

    def of(self, sent: bool) -> None:
        if self._failing == sent:
            self._failing = not sent
            if sent:
                self._log.info("telemetry is exported again")
            else:
                self._log.warning("telemetry cannot be exported; tasks go on, and what is not taken is dropped")


class _Spoken(SpanExporter):
    """An exporter whose faults are told by us."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._told = _Told("traces", endpoint)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._told.of(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Measuring(threading.Thread):
    """Sends metrics from time to time. No loop of ours, which the watchdog would miss while a receiver hangs."""

    def __init__(self, send: Callable[[], None], held: Callable[[float], bool]) -> None:
        super().__init__(name="otel-metrics", daemon=True)
        self._send = send
        self._held = held
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            interval = max(0.1, float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or _INTERVAL_MS) / 1000)
        except ValueError:
            interval = _INTERVAL_MS / 1000
        while not self._stopping.wait(interval):
            try:
                if self._held(2.5 * interval):
                    self._send()
            except Exception:
                log.exception("metrics are not exported this time")

    def end(self) -> None:
        """End after what is under way; does not wait for it: the next process has the same numbers."""
        self._stopping.set()
