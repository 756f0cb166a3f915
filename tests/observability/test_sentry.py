"""Sentry: one event for each dead task and each crash, without payloads or secrets."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk

import sytq
from sytq.ledger.schedules import Schedules
from sytq.observability import sentry
from tests.installation import TRIALS, Installation
from tests.observability.ingest import Ingest
from tests.receiver import Receiver
from tests.servers import poll

SECRETIVE = Path(__file__).parent / "secretive_plugins"
PROMPT = "Mrs Miller's salary is 83000"
KEY = "sk-geheimgeheim1234"
SECRET = {"prompt": PROMPT, "key": KEY}


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    one = Ingest()
    yield one
    one.close()


def installation_for(tmp_path: Path, redis_url: str, ingest: Ingest, **environ: str) -> Installation:
    return Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        SYTQ_PLUGINS__PATHS=json.dumps([str(TRIALS), str(SECRETIVE)]),
        SENTRY_DSN=ingest.dsn,
        SYTQ_SENTRY__ENVIRONMENT="staging",
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
        SYTQ_SENTRY__TRACES_SAMPLE_RATE="1.0",
        **environ,
    )


@pytest.fixture
def reporting(tmp_path: Path, redis_url: str, ingest: Ingest) -> Iterator[Installation]:
    made = installation_for(tmp_path, redis_url, ingest)
    yield made
    made.close()


@pytest.fixture
def scheduled(tmp_path: Path, redis_url: str, ingest: Ingest) -> Iterator[Installation]:
    """With schedules, whose dead tasks are events too, one at each minute."""
    schedules = {
        "pulse": {"type": "cleanup", "cron": "* * * * *", "timezone": "Europe/Berlin"},
        "ill": {"type": "careless", "cron": "* * * * *", "payload": SECRET},
        "rapid": {"type": "cleanup", "every": "1s"},
    }
    made = installation_for(tmp_path, redis_url, ingest, SYTQ_SCHEDULES=json.dumps(schedules))
    yield made
    made.close()


def submit(on: Installation, type_name: str, **origin: str) -> str:
    task = on.runtime.submitter.prepare(type_name, SECRET, **origin)
    on.runtime.submitter.submit([task])
    return task.id


def test_dead_task_is_one_event_with_its_attempts_and_no_secrets(reporting: Installation, ingest: Ingest) -> None:
    worker = reporting.start_worker()
    dead = [submit(reporting, "careless"), submit(reporting, "careless"), submit(reporting, "careless-plain")]
    origin = {"request_id": "req-7", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with_reason, logged = submit(reporting, "reasonable", **origin), submit(reporting, "logging")
    for task in (*dead, with_reason):
        reporting.wait_state(task, "dead")
        ingest.wait("event", task_id=task)
    reporting.wait_state(logged, "succeeded")
    succeeded = reporting.submit("plain", "p")
    retried = reporting.submit("patient", "q")
    for task in (succeeded, retried):
        reporting.wait_state(task, "succeeded")
    assert worker.terminate() == 0  # sends the pending events

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
    assert reason["tags"]["request_id"] == "req-7"
    assert reason["contexts"]["trace"]["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = ingest.raw.decode()
    for secret in (PROMPT, "Miller", KEY, KEY[3:], str(reporting.journal)):
        assert secret not in sent


def test_loop_crash_and_worker_killing_task_are_reported(reporting: Installation, ingest: Ingest) -> None:
    for _ in range(2):  # then it runs in isolated processes
        worker = reporting.start_worker(threads=1)
        if not reporting.notes():
            task = reporting.submit("poison", "p")
        assert worker.wait(60) != 0
    reporting.start_worker(threads=1)
    reporting.wait_state(task, "dead")
    (event,) = ingest.wait("event", task_id=task)
    assert event["message"] == "a task killed its workers"
    assert event["level"] == "fatal"
    # A missing table crashes the loops that need it.
    reporting.runtime.database.execute_sql("ALTER TABLE sytq_attempts RENAME TO gone")
    reporting.submit("plain", "p")
    event = ingest.wait("event", loop="record")[0]
    assert event["exception"]["values"][-1]["type"] == "OperationalError"


def test_schedule_tick_checks_in_when_it_starts_and_ends(scheduled: Installation, ingest: Ingest) -> None:
    for name in ("pulse", "ill", "rapid"):
        Schedules(scheduled.runtime.database).begin(name, dt.datetime.now(dt.UTC) - dt.timedelta(minutes=2))
    worker = scheduled.start_worker()
    for name, end in (("pulse", "ok"), ("ill", "error")):
        monitor = f"sytq-{name}"
        poll(
            lambda monitor=monitor, end=end: end in {c["status"] for c in checks(ingest, monitor)},
            timeout=60,
            message=lambda: ingest.of("check_in"),
        )
        ended = next(check for check in checks(ingest, monitor) if check["status"] == end)
        begun, last = (one for one in checks(ingest, monitor) if one["check_in_id"] == ended["check_in_id"])
        assert (begun["status"], last) == ("in_progress", ended)
        assert 0 <= ended["duration"] < 60
        assert (ended["environment"], ended["release"]) == ("staging", f"sytq@{sytq.__version__}")
        config = ended["monitor_config"]
        assert config["schedule"] == {"type": "crontab", "value": "* * * * *"}
        assert config["timezone"] == ("Europe/Berlin" if name == "pulse" else "UTC")
        assert config["max_runtime"] >= 1
        # The check-in id is the task's id.
        task = scheduled.wait_state(str(uuid.UUID(begun["check_in_id"])), "succeeded", "dead")
        assert str(task.request_id).startswith(f"schedule:{name}:")
    # A task with a forged request_id of a schedule makes no check-in.
    forged = scheduled.runtime.submitter.prepare("cleanup", {}, request_id=str(task.request_id))
    scheduled.runtime.submitter.submit([forged])
    scheduled.wait_state(forged.id, "succeeded")
    assert worker.terminate() == 0
    assert {check["monitor_slug"] for check in ingest.of("check_in")} == {"sytq-pulse", "sytq-ill"}
    assert forged.id.replace("-", "") not in {check["check_in_id"] for check in ingest.of("check_in")}


def checks(ingest: Ingest, monitor: str) -> list[Any]:
    return [check for check in ingest.of("check_in") if check["monitor_slug"] == monitor]


def test_sentry_names_the_callers_trace_and_makes_none_at_any_sample_rate(
    reporting: Installation, ingest: Ingest, receiver: Receiver
) -> None:
    worker = reporting.start_worker()
    reporting.start_api()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"type": "careless", "payload": SECRET, "callback": {"url": f"{receiver.url}?{KEY}"}}
    reply = reporting.request("POST", "/v2/tasks", body, {"traceparent": parent, "x-request-id": "req-0"})
    assert reply.headers["traceparent"] == parent
    poll(lambda: receiver.received, message="the callback comes")
    assert receiver.received[0].headers["traceparent"] == parent
    (event,) = ingest.wait("event", task_id=reply.json["id"])
    assert event["contexts"]["trace"]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (event["transaction"], event["tags"]["request_id"]) == ("careless", "req-0")
    reporting.runtime.database.execute_sql("ALTER TABLE sytq_tasks RENAME COLUMN type TO gone")
    assert reporting.request("GET", "/api/tasks", headers={"x-request-id": "req-2"}).status == 503
    (fault,) = ingest.wait("event", request_id="req-2")
    assert (fault["tags"]["process"], fault["exception"]["values"][-1]["type"]) == ("api", "OperationalError")
    assert worker.terminate() == 0
    assert not ingest.of("transaction")
    assert PROMPT not in ingest.raw.decode()
    assert KEY not in ingest.raw.decode()


def test_sentry_is_inactive_without_a_dsn(installation: Installation) -> None:
    worker = installation.start_worker()
    installation.wait_state(installation.submit("failing", "f"), "dead")
    assert worker.terminate() == 0
    assert not sentry.start(installation.runtime.settings, "worker", "1")
    assert not sentry_sdk.get_client().is_active()
