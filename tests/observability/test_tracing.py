"""OpenTelemetry: request, task and callback in one trace, and no cost when it is disabled."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installation import TRIALS, Installation
from tests.observability.ingest import Ingest
from tests.observability.otlp import Collector, Seen
from tests.provider import REPORT, ScriptedProvider
from tests.receiver import Receiver
from tests.servers import free_port, poll

PLUGINS = Path(__file__).parent / "traced_plugins"
ROOT = Path(__file__).parents[2]
PROMPT = "Mrs Miller's salary is 83000"
KEY = "sk-geheimgeheim1234"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


@pytest.fixture
def install(make_installation: Callable[..., Installation], redis_url: str) -> Callable[..., Installation]:
    """Makes an installation with these settings."""

    def make(**settings: str) -> Installation:
        settings |= {
            "SYTQ_PLUGINS__PATHS": json.dumps([str(TRIALS), str(PLUGINS)]),
            "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        return make_installation(redis_url=redis_url, **settings)

    return make


def header(span: Seen) -> str:
    return f"00-{span.trace}-{span.id}-01"


def test_request_task_and_callback_are_one_trace(
    install: Callable[..., Installation],
    collector: Collector,
    receiver: Receiver,
    provider: ScriptedProvider,
) -> None:
    installation = install(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        SYTQ_PROVIDERS__SCRIPTED__BASE_URL=provider.base_url,
        SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
        SYTQ_PROVIDERS__SCRIPTED__API_KEY=KEY,
        SYTQ_OTEL__HEADERS=json.dumps({"x-tenant": "geheim-4711"}),
    )
    worker = installation.start_worker()
    installation.start_api()
    body = {"prompt": PROMPT, "callback_url": f"{receiver.url}?key={KEY}"}
    reply = installation.request("POST", "/api/v1/tasks/llm", body, {"traceparent": PARENT, "X-Request-Id": "req-1"})
    assert reply.status == 200, reply
    task = reply.json["task_id"]
    installation.wait_state(task, "succeeded")
    poll(lambda: receiver.received, message="the callback comes")

    (served,) = collector.wait("POST /api/v1/tasks/llm", sytq__request_id="req-1")
    assert (served.kind, served.trace, served.parent) == ("SERVER", TRACE, CALLER)
    assert served.said["http.response.status_code"] == 200
    assert reply.headers["traceparent"] == header(served)

    (made,) = collector.wait("create llm")
    assert (made.kind, made.trace, made.parent) == ("PRODUCER", TRACE, served.id)
    (run,) = collector.wait("process llm")
    assert (run.kind, run.trace, run.parent, run.links) == ("CONSUMER", TRACE, made.id, ((TRACE, made.id),))
    assert run.service == "sytq-worker"
    assert not run.failed
    assert run.said.pop("messaging.client.id")
    assert run.said == {
        "messaging.system": "sytq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "llm",
        "messaging.message.id": task,
        "messaging.consumer.group.name": "sytq",
        "sytq.task.type": "llm",
        "sytq.task.attempt": 1,
        "sytq.task.outcome": "succeeded",
        "sytq.request_id": "req-1",
    }
    (asked,) = collector.wait("POST", server__port=int(provider.base_url.split(":")[2].split("/")[0]))
    assert (asked.kind, asked.trace, asked.parent) == ("CLIENT", TRACE, run.id)
    assert asked.said["http.response.status_code"] == 200
    assert [call.headers["traceparent"] for call in provider.calls] == [header(asked)]

    (callback,) = [span for span in collector.wait("process webhook") if span.said["sytq.task.type"] == "callback"]
    (told,) = collector.wait("POST", server__port=int(receiver.url.split(":")[2].split("/")[0]))
    assert (callback.trace, told.trace, told.parent) == (TRACE, TRACE, callback.id)
    assert [one.headers["traceparent"] for one in receiver.received] == [header(told)]
    # Every parent span was sent too.
    of_the_trace = [span for span in collector.spans if span.trace == TRACE]
    assert {span.parent for span in of_the_trace} <= {span.id for span in of_the_trace} | {CALLER}

    assert worker.terminate() == 0
    assert installation.gunicorn.terminate() == 0
    assert collector.headers["x-tenant"] == "geheim-4711"
    assert "geheim-4711" not in worker.text() + installation.gunicorn.text()
    for secret in (PROMPT, "Miller", KEY, "geheim", REPORT, "/hook", "chat/completions"):
        assert secret not in collector.raw.decode(errors="replace"), secret


def test_each_attempt_is_a_span_with_error_type_and_no_message(
    install: Callable[..., Installation], collector: Collector
) -> None:
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    installation.start_worker()
    installation.start_api()
    payload = {"type": "unlucky", "payload": {"url": "http://x.invalid", "secret": KEY}}
    task = installation.request("POST", "/v2/tasks", payload).json["id"]
    installation.wait_state(task, "dead")
    (made,) = collector.wait("create loop", messaging__message__id=task)
    runs = collector.wait("process loop", 3, messaging__message__id=task)
    runs.sort(key=lambda run: run.said["sytq.task.attempt"])
    said = [(run.failed, run.said["error.type"], run.said["sytq.task.outcome"]) for run in runs]
    assert said == [(True, "Retry", "failed"), (True, "ValueError", "failed"), (True, "ValueError", "dead")]
    assert {(run.trace, run.parent) for run in runs} == {(made.trace, made.id)}
    assert KEY not in collector.raw.decode(errors="replace")


@pytest.mark.parametrize(("type_name", "queue"), [("caller", "threads"), ("async-caller", "loop")])
def test_calls_and_tasks_of_an_attempt_are_child_spans(
    install: Callable[..., Installation],
    collector: Collector,
    receiver: Receiver,
    type_name: str,
    queue: str,
) -> None:
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    installation.start_worker()
    installation.start_api()
    body = {"type": type_name, "payload": {"url": receiver.url}}
    task = installation.request("POST", "/v2/tasks", body).json["id"]
    installation.wait_state(task, "succeeded")
    (run,) = collector.wait(f"process {queue}", messaging__message__id=task)
    (call,) = collector.wait("POST", server__port=int(receiver.url.split(":")[2].split("/")[0]))
    (child,) = collector.wait("create threads", sytq__task__type="child")
    (of_child,) = collector.wait("process threads", sytq__task__type="child")
    assert (call.trace, call.parent, child.trace, child.parent) == (run.trace, run.id, run.trace, run.id)
    assert (of_child.trace, of_child.parent) == (run.trace, child.id)
    assert [one.headers["traceparent"] for one in receiver.received] == [header(call)]


def test_span_of_a_call_has_its_status_or_error_type(
    install: Callable[..., Installation], collector: Collector
) -> None:
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    installation.start_worker()
    installation.start_api()
    busy, nobody = Receiver(503), free_port()
    try:
        for url in (busy.url, f"http://127.0.0.1:{nobody}/?{KEY}"):
            body = {"type": "async-caller", "payload": {"url": url}}
            task = installation.request("POST", "/v2/tasks", body).json["id"]
            installation.wait_state(task, "succeeded", "dead")
    finally:
        busy.close()
    (refused,) = collector.wait("POST", http__response__status_code=503)
    assert (refused.failed, refused.said["error.type"]) == (True, "503")
    broken = collector.wait("POST", 3, server__port=nobody)
    assert {(call.failed, call.said["error.type"]) for call in broken} == {(True, "ClientConnectorError")}
    assert KEY not in collector.raw.decode(errors="replace")


def test_unsampled_caller_is_respected_and_own_traceparent_is_kept(
    install: Callable[..., Installation], collector: Collector, receiver: Receiver
) -> None:
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    installation.start_worker()
    installation.start_api()
    unsampled = PARENT[:-1] + "0"
    body: dict[str, Any] = {"type": "async-caller", "payload": {"url": receiver.url}}
    first = installation.request("POST", "/v2/tasks", body, {"traceparent": unsampled}).json["id"]
    installation.wait_state(first, "succeeded")
    body["payload"]["secret"] = PARENT.replace("0af7", "1af7")  # the type sends it as its own traceparent header
    second = installation.request("POST", "/v2/tasks", body).json["id"]
    installation.wait_state(second, "succeeded")
    collector.wait("process loop", messaging__message__id=second)
    passed_on, own = (one.headers["traceparent"] for one in receiver.received)
    assert re.fullmatch(rf"00-{TRACE}-(?!{CALLER})[0-9a-f]{{16}}-00", passed_on)
    assert own == body["payload"]["secret"]
    assert not [span for span in collector.spans if span.trace == TRACE]
    assert not [span for span in collector.spans if span.kind == "CLIENT"]


def test_sentry_names_the_opentelemetry_trace_and_makes_none(
    install: Callable[..., Installation], collector: Collector
) -> None:
    ingest = Ingest()
    installation = install(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, SENTRY_DSN=ingest.dsn, SYTQ_SENTRY__TRACES_SAMPLE_RATE="1.0"
    )
    try:
        worker = installation.start_worker()
        installation.start_api()
        payload = {"type": "unlucky", "payload": {"url": "http://x.invalid", "secret": KEY}}
        task = installation.request("POST", "/v2/tasks", payload, {"traceparent": PARENT}).json["id"]
        (event,) = ingest.wait("event", task_id=task)
        assert event["contexts"]["trace"]["trace_id"] == TRACE
        collector.wait("process loop", 3, messaging__message__id=task)
        installation.runtime.database.execute_sql("ALTER TABLE sytq_tasks RENAME COLUMN type TO gone")
        assert installation.request("GET", "/api/tasks", headers={"traceparent": PARENT}).status == 503
        assert ingest.wait("event", process="api")[0]["tags"]["trace_id"] == TRACE
        assert collector.wait("GET /api/tasks")[0].failed
        assert worker.terminate() == 0
        assert installation.gunicorn.terminate() == 0
        assert not ingest.of("transaction")
    finally:
        ingest.close()


def test_probes_make_no_spans(install: Callable[..., Installation], collector: Collector) -> None:
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    installation.start_api()
    for path in ("/healthz/live", "/healthz/ready", "/health", "/metrics", "/stats"):
        assert installation.request("GET", path).status == 200
    collector.wait("GET /stats")
    assert {span.name for span in collector.spans} == {"GET /stats"}


class Hung:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize("state", ["unavailable", "hung"])
def test_unavailable_collector_delays_neither_tasks_nor_shutdown(
    install: Callable[..., Installation], state: str
) -> None:
    hung = Hung()
    url = hung.url if state == "hung" else f"http://127.0.0.1:{free_port()}"
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_MAX_QUEUE_SIZE="512")
    try:
        worker = installation.start_worker()
        installation.start_api()
        tasks = [{"type": "child", "payload": {}}] * 400
        ids = [one["id"] for one in installation.request("POST", "/v2/tasks/batch", {"tasks": tasks}).json["results"]]
        for task in ids:
            installation.wait_state(task, "succeeded")
        if state == "unavailable":
            poll(lambda: '"kind": "traces"' in worker.text(), timeout=60, message="the failed export is logged")
            assert worker.text().count('"kind": "traces"') == 1
        began = time.monotonic()
        assert installation.gunicorn.terminate() == 0
        assert worker.terminate() == 0
        assert time.monotonic() - began < 28  # the SDK alone would wait for 30 s, twice
    finally:
        hung.close()


@pytest.mark.parametrize("settings", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}])
def test_opentelemetry_is_imported_only_when_enabled(
    install: Callable[..., Installation], settings: dict[str, str]
) -> None:
    installation = install(**settings)

    def loaded_by(code: str) -> list[str]:
        found = "[n for n in sys.modules if n.startswith(('opentelemetry', 'google.protobuf'))]"
        code = f"import json, sys\n{code}\nprint(json.dumps(sorted({found})))"
        done = subprocess.run([sys.executable, "-c", code], env=installation.environ, cwd=ROOT, capture_output=True)
        return list(json.loads(done.stdout.splitlines()[-1]))

    by_redis = loaded_by("import redis")  # redis imports a part of it wherever it is installed
    assert not [name for name in by_redis if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))]
    assert loaded_by("from sytq.api import create_app; create_app()") == by_redis
    worker = installation.start_worker()
    task = installation.runtime.submitter.prepare("loaded", {})
    installation.runtime.submitter.submit([task])
    assert json.loads(installation.wait_state(task.id, "succeeded").result) == by_redis
    assert worker.terminate() == 0


def test_missing_otel_extra_is_logged_and_tasks_still_run(install: Callable[..., Installation], tmp_path: Path) -> None:
    (tmp_path / "without" / "opentelemetry").mkdir(parents=True)
    (tmp_path / "without" / "opentelemetry" / "__init__.py").write_text("raise ImportError('no opentelemetry here')")
    path = os.pathsep.join([str(tmp_path / "without"), str(ROOT)])
    installation = install(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", PYTHONPATH=path)
    worker = installation.start_worker(fresh=True)
    assert "pip install 'sytq[otel]'" in worker.text()
    installation.wait_state(installation.submit("plain", "p"), "succeeded")
