"""The life of a task from its submission to its end, with real workers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import socket
import time
from pathlib import Path

from sytq.ids import new_id
from tests.installation import Installation
from tests.receiver import Receiver
from tests.servers import poll


def test_sync_and_async_tasks_run_and_are_recorded(installation: Installation) -> None:
    installation.start_worker()
    for type_name in ("plain", "gentle"):
        row = installation.wait_state(installation.submit(type_name, type_name), "succeeded")
        assert json.loads(row.result) == {"name": type_name}
        assert row.attempts == 1
        assert row.created_at <= row.started_at <= row.finished_at
        (attempt,) = installation.runtime.ledger.attempts(row.id)
        assert (attempt.outcome, attempt.token) == ("succeeded", row.token)
    installation.assert_redis_forgets()


def test_failing_task_uses_its_attempts_and_its_death_is_reported_once(installation: Installation) -> None:
    installation.start_worker()
    row = installation.wait_state(installation.submit("failing", "a"), "dead")
    assert row.attempts == 3
    assert row.error == "ValueError: a fails (failed after 3 attempts)"
    installation.wait_note("dead-3 a")
    assert installation.notes() == {"start a": 3, "dead-3 a": 1}
    outcomes = [attempt.outcome for attempt in installation.runtime.ledger.attempts(row.id)]
    assert outcomes == ["failed", "failed", "dead"]


def test_fail_ends_a_task_at_once_and_retry_may_consume_no_attempt(installation: Installation) -> None:
    installation.start_worker()
    hopeless, patient = installation.submit("hopeless", "h"), installation.submit("patient", "p")
    row = installation.wait_state(hopeless, "dead")
    assert (row.attempts, row.error) == (1, "there is no hope")
    assert installation.wait_state(patient, "succeeded").attempts == 1
    assert installation.notes() == {"start h": 1, "start p": 6}


def test_timeout_ends_sync_and_async_tasks(installation: Installation) -> None:
    installation.start_worker()
    slow, slowly = installation.submit("slow"), installation.submit("slowly")
    assert "timed out after 1 s" in installation.wait_state(slow, "dead").error
    assert "timed out after 0.5 s" in installation.wait_state(slowly, "dead").error


def test_timeout_stops_sync_tasks_in_context_calls_and_blocking_calls(
    installation: Installation,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the connection and never answers
        installation.start_worker()
        begun = time.monotonic()
        stubborn = installation.submit("stubborn", "s")
        waiting = installation.submit("waiting", str(mute.getsockname()[1]))
        for task_id in (stubborn, waiting):
            assert installation.wait_state(task_id, "dead").error.startswith("timed out after 1 s")
        assert time.monotonic() - begun < 45  # the call alone would have waited for 60
        installation.wait_note("swallowed s")
        assert installation.notes()["end s"] == 0


def test_child_is_created_once_when_its_parent_retries(installation: Installation) -> None:
    installation.start_worker()
    row = installation.wait_state(installation.submit("parent", "p"), "succeeded")
    assert row.attempts == 2
    installation.wait_note("end child-of-p")
    assert installation.notes() == {"start p": 2, "start child-of-p": 1, "end child-of-p": 1}


def test_a_delayed_task_starts_on_time(installation: Installation) -> None:
    installation.start_worker()
    due = time.time() + 5
    at = dt.datetime.fromtimestamp(due, dt.UTC).replace(tzinfo=None)
    far = installation.submit("plain", "far", run_at=at + dt.timedelta(days=400))
    near = installation.submit("plain", "near", run_at=at)
    submitted = time.time()
    assert installation.runtime.inspection.live([far])[far].state == "scheduled"
    installation.wait_state(near, "succeeded")
    (started,) = installation.moments("start near")
    # Its punctuality is measured in bench/, not on a shared machine.
    assert due <= started < max(due, submitted) + 1.0
    assert installation.row(far).state == "scheduled"


def test_row_inserted_by_plain_sql_runs_as_a_task(installation: Installation) -> None:
    installation.start_worker()
    task_id = new_id()
    poll(lambda: (installation.runtime.inspection.epoch_age() or 0) > 4, message="the reconciler begins")
    payload = json.dumps({"journal": str(installation.journal), "name": "sql"})
    installation.runtime.database.execute_sql(
        "INSERT INTO sytq_tasks (id, type, payload) VALUES (?, 'plain', ?)", (task_id, payload)
    )
    inserted = time.time()
    installation.wait_note("end sql")
    assert installation.moments("end sql")[0] - inserted < 3
    assert installation.wait_state(task_id, "succeeded").attempts == 1


def test_invalid_rows_end_dead_and_do_not_affect_other_tasks(installation: Installation) -> None:
    installation.start_worker()
    bad = (
        {"type": "no|name", "payload": "{}"},
        {"type": "plain", "payload": "not json"},
        {"type": "plain", "payload": "{}"},
    )
    ids = []
    for row in bad:
        ids.append(new_id())
        installation.runtime.database.execute_sql(
            "INSERT INTO sytq_tasks (id, type, payload) VALUES (?, ?, ?)", (ids[-1], row["type"], row["payload"])
        )
    for task_id in ids:
        assert installation.wait_state(task_id, "dead").error
    installation.wait_state(installation.submit("plain", "good"), "succeeded")


def test_task_of_an_unknown_type_waits_for_a_worker_with_that_type(installation: Installation) -> None:
    worker = installation.start_worker(SYTQ_PLUGINS__PATHS="[]")
    task = installation.submit("gentle", "a", priority="high")
    task2 = installation.prepare("plain", "b")
    moved = dataclasses.replace(task2, queue="default")
    installation.runtime.submitter.submit([moved])
    poll(lambda: "unknown task type" in worker.text(), message="the old worker declines it")
    worker.terminate()
    installation.start_worker()
    installation.wait_state(task, "succeeded")
    assert installation.wait_state(moved.id, "succeeded").attempts == 1


def test_p5_callback_is_sent_by_another_worker_if_its_recorder_cannot(
    installation: Installation, tmp_path: Path
) -> None:
    broken = tmp_path / "sytq_plugins" / "webhook.py"
    broken.parent.mkdir()
    (broken.parent / "__init__.py").touch()
    broken.write_text("raise ImportError('a broken file')")
    environ = {"SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]'}
    path = f"{tmp_path}:{installation.environ['PYTHONPATH']}"
    worker = installation.start_worker(fresh=True, PYTHONPATH=path, **environ)
    receiver = Receiver()
    try:
        task = installation.submit("gentle", "a", callback={"url": receiver.url})
        installation.wait_state(task, "succeeded")
        poll(lambda: "callback left to other workers" in worker.text(), message="the callback is left")
        worker.terminate()
        installation.start_worker(**environ)
        poll(lambda: receiver.received, message=installation.workers[-1].text)
        assert json.loads(receiver.received[0].body)["data"]["id"] == task
        [(callback,)] = installation.rows("SELECT id FROM sytq_tasks WHERE type = 'role.announcement'")
        installation.wait_state(callback, "succeeded", timeout=20)
        assert len(receiver.received) == 1
    finally:
        receiver.close()


def test_payloads_and_secrets_are_not_logged(installation: Installation) -> None:
    worker = installation.start_worker()
    installation.wait_state(installation.submit("failing", "sk-0123456789abcdef0123456789"), "dead")
    installation.wait_state(installation.submit("plain", "payload-word"), "succeeded")
    assert "payload-word" not in worker.text()
    assert "0123456789abcdef" not in worker.text()


def test_lone_surrogates_in_results_and_errors_are_tolerated(installation: Installation) -> None:
    worker = installation.start_worker()
    done, dead = installation.submit("broken-emoji"), installation.submit("broken-emoji", "fails")
    assert json.loads(installation.wait_state(done, "succeeded").result) == {"cut": "half \ud83d"}
    assert installation.wait_state(dead, "dead").error == "half ?"
    installation.wait_state(installation.submit("plain", "after"), "succeeded")
    assert worker.alive


def test_awaiting_a_cancelled_future_fails_the_task(installation: Installation) -> None:
    installation.start_worker()
    assert "CancelledError" in installation.wait_state(installation.submit("impatient", "a"), "dead").error
    assert installation.notes() == {"start a": 3}


def test_tasks_in_an_undeclared_queue_run(installation: Installation) -> None:
    moved = [
        dataclasses.replace(installation.prepare(kind, kind), queue=queue)
        for kind in ("plain", "gentle")
        for queue in ("forgotten", "plain", "gentle")
    ]
    later = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=1)
    moved.append(dataclasses.replace(installation.prepare("plain", "later"), queue="forgotten", run_at=later))
    worker = installation.start_worker()
    installation.runtime.submitter.submit(moved)
    for task in moved:
        assert installation.wait_state(task.id, "succeeded").attempts == 1
    assert worker.alive


def test_row_with_a_custom_id_runs_as_a_task(installation: Installation) -> None:
    installation.start_worker()
    payload = json.dumps({"journal": str(installation.journal), "name": "own"})
    for task_id, type_name in (("order-4711", "parent"), ("order-4712", "failing")):
        installation.runtime.database.execute_sql(
            "INSERT INTO sytq_tasks (id, type, payload) VALUES (?, ?, ?)", (task_id, type_name, payload)
        )
    installation.wait_state("order-4711", "succeeded")
    installation.wait_state("order-4712", "dead")
    installation.wait_note("dead-3 own")
    installation.wait_note("end child-of-own")
