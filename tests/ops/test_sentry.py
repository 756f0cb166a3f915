"""Sentry: what ends for good and what breaks of ours, once each, told without anything that was confided to us."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentry_sdk

import sytq
from sytq import sentry
from tests.api.conftest import Api
from tests.ops.ingest import Ingest
from tests.workers import TRIALS, Installation

SECRETIVE = Path(__file__).parent / "secretive_plugins"
PROMPT = "Mrs Miller's salary is 83000"
KEY = "sk-geheimgeheim1234"
SECRET = {"prompt": PROMPT, "key": KEY}


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    one = Ingest()
    yield one
    one.close()


@pytest.fixture
def reporting(tmp_path: Path, redis_url: str, ingest: Ingest) -> Iterator[Installation]:
    made = Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        SYTQ_PLUGINS__PATHS=json.dumps([str(TRIALS), str(SECRETIVE)]),
        SENTRY_DSN=ingest.dsn,
        SYTQ_SENTRY__ENVIRONMENT="staging",
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
        SYTQ_SENTRY__TRACES_SAMPLE_RATE="1.0",
        SYTQ_SCHEDULES__PULSE='{"type": "cleanup", "cron": "* * * * *", "timezone": "Europe/Berlin"}',
    )
    yield made
    made.close()


def submit(on: Installation, type_name: str) -> str:
    task = on.runtime.submitter.prepare(type_name, SECRET)
    on.runtime.submitter.submit([task])
    return task.id


def test_a_dead_task_is_one_event_with_its_attempts_and_nothing_confided(
    reporting: Installation, ingest: Ingest
) -> None:
    worker = reporting.start_worker()
    dead = [submit(reporting, "careless"), submit(reporting, "careless"), submit(reporting, "careless-plain")]
    with_reason, logged = submit(reporting, "reasonable"), submit(reporting, "logging")
    for task in (*dead, with_reason):
        reporting.wait_state(task, "dead")
        ingest.wait("event", task_id=task)
    reporting.wait_state(logged, "succeeded")
    succeeded = reporting.submit("plain", "p")
    retried = reporting.submit("patient", "q")
    for task in (succeeded, retried):
        reporting.wait_state(task, "succeeded")
    assert worker.terminate() == 0  # sends what is left

    events = ingest.of("event")
    assert sorted(event["tags"]["task_id"] for event in events) == sorted([*dead, with_reason])
    one, two, other, reason = (ingest.of("event", task_id=task)[0] for task in (*dead, with_reason))
    assert one["tags"] | {"task_id": ""} == {
        "task_id": "",
        "type": "careless",
        "attempt": "3",
        "queue": "gentle",
        "process": "worker",
    }
    assert (one["environment"], one["release"]) == ("staging", f"sytq@{sytq.__version__}")
    crumbs = one["breadcrumbs"]["values"]
    assert [crumb["message"] for crumb in crumbs] == ["attempt 1: ValueError", "attempt 2: ValueError"]
    assert one["fingerprint"] == two["fingerprint"]
    assert other["fingerprint"] != one["fingerprint"]
    (error,) = one["exception"]["values"]
    assert error["type"] == "ValueError"
    frame = error["stacktrace"]["frames"][-1]
    assert (frame["function"], "vars" in frame) == ("careless", False)
    assert [error["value"] for error in reason["exception"]["values"]] == ["the customer has no account"]
    sent = ingest.raw.decode()
    for secret in (PROMPT, "83000", KEY, KEY[3:], str(reporting.journal)):
        assert secret not in sent


def test_a_crash_of_ours_and_a_killing_task_are_told(reporting: Installation, ingest: Ingest) -> None:
    for _ in range(3):
        worker = reporting.start_worker(threads=1)
        if not reporting.notes():
            task = reporting.submit("poison", "p")
        assert worker.wait(20) != 0
    reporting.start_worker(threads=1)
    reporting.wait_state(task, "dead", timeout=20)
    (event,) = ingest.wait("event", task_id=task)
    assert event["message"] == "a task killed its workers"
    assert event["level"] == "fatal"
    # A table that is gone is a crash of the loops that need it.
    reporting.runtime.database.execute_sql("ALTER TABLE sytq_attempts RENAME TO gone")
    reporting.submit("plain", "p")
    event = ingest.wait("event", loop="record")[0]
    assert event["exception"]["values"][-1]["type"] == "OperationalError"


def test_request_task_and_schedule_are_traced_and_checked_in(reporting: Installation, ingest: Ingest) -> None:
    reporting.runtime.timetable.begin("pulse", dt.datetime.now(dt.UTC) - dt.timedelta(minutes=2))
    reporting.start_worker()
    keys = ("SENTRY_DSN", "SYTQ_OUTBOUND__ALLOW_NETWORKS", "SYTQ_SENTRY__TRACES_SAMPLE_RATE")
    stores = (reporting.environ["SYTQ_DATABASE__URL"], reporting.environ["SYTQ_REDIS__URL"])
    api = Api(*stores, **{name: reporting.environ[name] for name in keys})
    try:
        api.start()
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        url = f"http://127.0.0.1:9/?{KEY}"
        reply = api.request(
            "POST", "/api/v1/tasks", {"url": url, "body": PROMPT}, {"traceparent": parent, "x-request-id": "req-1"}
        )
        assert reply.status == 200
        (request,) = ingest.wait("transaction", request_id="req-1")
        assert request["transaction"] == "POST /api/v1/tasks"
        assert request["contexts"]["trace"]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        assert "request" not in request
        run = ingest.wait("transaction", task_id=reply.json["task_id"])[0]
        assert (run["transaction"], run["tags"]["attempt"]) == ("webhook", "1")
        (check, *_) = ingest.wait("check_in")
        assert (check["monitor_slug"], check["status"]) == ("sytq-pulse", "ok")
        assert check["monitor_config"]["schedule"] == {"type": "crontab", "value": "* * * * *"}
        assert check["monitor_config"]["timezone"] == "Europe/Berlin"
        reporting.runtime.database.execute_sql("ALTER TABLE sytq_tasks RENAME TO gone")
        assert api.request("GET", "/api/tasks", headers={"x-request-id": "req-2"}).status == 500
        (fault,) = ingest.wait("event", request_id="req-2")
        assert (fault["tags"]["process"], fault["exception"]["values"][-1]["type"]) == ("api", "OperationalError")
    finally:
        api.remove()
    assert PROMPT not in ingest.raw.decode()
    assert KEY not in ingest.raw.decode()


def test_nothing_is_sent_and_nothing_patched_without_a_dsn(installation: Installation) -> None:
    worker = installation.start_worker()
    installation.wait_state(installation.submit("failing", "f"), "dead")
    assert worker.terminate() == 0
    assert not sentry.start(installation.runtime.settings, "worker", "1")
    assert not sentry_sdk.get_client().is_active()
