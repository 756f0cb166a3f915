"""The commands that show and change tasks, queues, types and schedules."""

from __future__ import annotations

import base64
import datetime as dt
import getpass
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.cli.task_view import print_task
from sytq.tasktypes.tasktype import TaskType
from tests.cli.shell import found, payload, run
from tests.installation import Installation
from tests.servers import free_port, poll


@pytest.fixture
def on_mysql(tmp_path: Path, mysql_url: str, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, mysql_url, redis_url)
    yield made
    made.close()


def test_a_task_is_submitted_shown_and_listed(on_mysql: Installation) -> None:
    on_mysql.start_worker()
    submit = [sys.executable, "-m", "sytq.cli", "send", "stepwise", "-", "--priority", "high"]
    body = payload(on_mysql, "st\u00e4p\x1b[31m").encode()
    done = subprocess.run(submit, env=on_mysql.environ, input=body, capture_output=True, timeout=90)
    assert (done.returncode, done.stderr) == (0, b"")
    task = done.stdout.decode().strip()
    on_mysql.wait_state(task, "succeeded")
    poll(lambda: len(on_mysql.runtime.ledger.attempts(task)) == 1)
    shown = found(on_mysql, "show", task)
    assert (shown["state"], shown["queue"], shown["priority"]) == ("succeeded", "gentle", "high")
    assert shown["payload"]["name"] == "st\u00e4p\x1b[31m" and shown["result"] == {"done": ["one", "two", "three"]}
    assert [step["value"] for step in shown["steps"]] == ["one", "two", "three"]
    assert [attempt["outcome"] for attempt in shown["attempts_made"]] == ["succeeded"]
    text = run(on_mysql, "show", task).stdout
    *_, timeline = text.partition("\n\n")
    words = ("accepted", "attempt 1 started on", "step one started", "step one done", "step three done", "succeeded")
    assert [line.split("Z  ")[0] for line in timeline.splitlines()] == sorted(
        line.split("Z  ")[0] for line in timeline.splitlines()
    )
    assert all(word in timeline for word in words)
    assert "st\u00e4p" in text and "\x1b" not in text
    assert "st\u00e4p" not in run(on_mysql, "show", task, "--no-payload").stdout
    hidden = found(on_mysql, "show", task, "--no-payload")
    assert "payload" not in hidden and "result" not in hidden and "value" not in hidden["steps"][0]
    assert [entry["id"] for entry in found(on_mysql, "ls", "type:stepwise")["tasks"]] == [task]
    assert found(on_mysql, "tasks", "count", "--type", "stepwise")["types"]["stepwise"]["succeeded"] == 1


def test_a_long_list_is_read_page_by_page(installation: Installation) -> None:
    tasks = [installation.submit("plain", f"t{n}") for n in range(3)]
    first = run(installation, "ls", "state:queued,dead queue:plain", "-n", "2")
    header, *rows = first.stdout.splitlines()
    assert header.split() == ["id", "type", "queue", "state", "attempts", "age", "error"]
    assert [row.split()[:4] for row in rows] == [[task, "plain", "plain", "queued"] for task in tasks[:0:-1]]
    cursor = first.stderr.removeprefix("There are more; continue with --after ").strip()
    rest = found(installation, "ls", "state:queued", "-n", "2", "--after", cursor)
    assert [entry["id"] for entry in rest["tasks"]] == [tasks[0]] and rest["next"] is None
    counted = run(installation, "tasks", "count").stdout.splitlines()
    assert counted[0].split() == [
        "type",
        "queued",
        "scheduled",
        "running",
        "retrying",
        "succeeded",
        "dead",
        "cancelled",
    ]
    assert ["plain", "3"] in [line.split() for line in counted]


def test_a_task_is_scheduled_rescheduled_and_cancelled(installation: Installation) -> None:
    at = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=3)).isoformat(timespec="seconds")
    submit = ("send", "plain", payload(installation, "a"), "--at")
    near, far = (run(installation, *submit, when).stdout.strip() for when in ("90m", at))
    delayed = found(installation, "queues", "delayed")["tasks"]
    assert [entry["id"] for entry in delayed] == [near, far]
    assert dt.datetime.fromisoformat(delayed[1]["due"]) == dt.datetime.fromisoformat(at)
    assert "runs at" in run(installation, "tasks", "reschedule", far, "1h").stdout
    assert [entry["id"] for entry in found(installation, "queues", "delayed", "-n", "1")["tasks"]] == [far]
    installation.start_worker()
    run(installation, "tasks", "reschedule", far, "now")
    installation.wait_state(far, "succeeded")
    assert "it is succeeded" in run(installation, "tasks", "reschedule", far, "now", status=1).stderr
    run(installation, "cancel", near, "--why", "not needed")
    assert installation.wait_state(near, "cancelled").error == f"cancelled by {getpass.getuser()}: not needed"
    assert "has already ended" in run(installation, "cancel", near, status=1).stderr


def test_running_tasks_are_shown_and_cancelled(installation: Installation) -> None:
    installation.environ["SYTQ_QUEUES__PLAIN"] = '{"limit": 1, "rate": "100/s", "max_waiting": 500}'
    installation.start_worker()
    task = installation.submit("plain", "a", seconds=60)
    installation.wait_note("start a")
    waiting = installation.submit("plain", "b")
    (entry,) = found(installation, "queues", "running")["tasks"]
    assert (entry["id"], entry["type"], entry["attempts"], entry["cancelled_by"]) == (task, "plain", 1, None)
    (queue,) = [entry for entry in found(installation, "queues", "list") if entry["queue"] == "plain"]
    assert (queue["limit"], queue["rate"], queue["max_waiting"]) == (1, "100/1s", 500)
    assert (queue["delayed"], queue["set_aside"], queue["paused"]) == (0, 0, [])
    (level,) = [entry for entry in queue["priorities"] if entry["priority"] == "normal"]
    assert (level["waiting"], level["running"]) == (1, 1) and level["oldest_seconds"] >= 0
    lines = [line.split() for line in run(installation, "queues", "list").stdout.splitlines()]
    assert ["plain", "urgent", "0", "0", "1", "100/1s"] in lines
    assert ["normal", "1", "1"] in [line[:3] for line in lines]
    assert "will be interrupted" in run(installation, "cancel", task, "--why", "a mistake").stdout
    asked = f"(cancellation requested by {getpass.getuser()}: a mistake)"
    assert asked in run(installation, "queues", "running", "-q", "plain").stdout
    assert asked in run(installation, "show", task).stdout
    assert found(installation, "show", waiting)["state"] == "queued"


def test_a_type_is_paused_listed_and_resumed(installation: Installation) -> None:
    said = run(installation, "types", "pause", "plain", "--why", "the target moves").stdout
    assert said == "plain is paused: 0 tasks wait, 0 tasks run on\n"
    installation.start_worker()
    task = installation.submit("plain", "a")
    poll(lambda: installation.runtime.inspection.parked()["plain"] == 1, message="a worker met it")
    (entry,) = found(installation, "plugin", "list", "--paused")
    assert (entry["type"], entry["queue"], entry["max_attempts"]) == ("plain", "plain", 3)
    assert (entry["paused"]["by"], entry["paused"]["why"]) == (getpass.getuser(), "the target moves")
    paused = {entry["queue"]: entry["paused"] for entry in found(installation, "queues", "list")}
    assert paused["plain"] == ["plain"] and paused["webhook"] == []
    everything = run(installation, "plugin", "list").stdout
    assert f"by {getpass.getuser()}: the target moves" in everything and "\nwebhook " in everything
    assert "set aside: its type is paused" in run(installation, "show", task).stdout
    assert run(installation, "types", "resume", "plain").stdout == "plain is resumed: 1 task goes on\n"
    installation.wait_state(task, "succeeded")
    assert run(installation, "types", "resume", "plain").stdout.startswith("plain is not paused: 0 tasks run, ")
    assert found(installation, "plugin", "list", "--paused") == []


def test_dead_tasks_are_listed_replayed_and_deleted(installation: Installation) -> None:
    installation.start_worker()
    hopeless = [installation.submit("hopeless", f"h{n}") for n in range(3)]
    failing = installation.submit("failing", "odd one")
    for task in (*hopeless, failing):
        installation.wait_state(task, "dead")
    listed = run(installation, "dead", "list").stdout.splitlines()
    assert listed[1].split()[:3] == [failing, "failing", "3"] and listed[1].endswith(
        "odd one fails (failed after 3 attempts)"
    )
    assert [entry["id"] for entry in found(installation, "dead", "list", 'error:"odd ONE"')["tasks"]] == [failing]
    assert found(installation, "dead", "list", "finished:>1h")["tasks"] == []
    assert found(installation, "show", failing)["attempts"] == 3
    # An omitted argument never replays or deletes everything.
    for command in (("dead", "replay"), ("dead", "delete"), ("dead", "delete", "--all", "type:hopeless")):
        assert "give either a query" in run(installation, *command, status=2).stderr
    assert run(installation, "dead", "delete", "--all", "--dry-run").stdout == "4 would be deleted\n"
    assert (
        "there is no matching task 'nosuch'"
        in run(installation, "dead", "delete", f"id:{failing},nosuch", status=1).stderr
    )
    assert run(installation, "dead", "replay", f"id:{failing} finished:<1h").stdout == "1 replayed\n"
    poll(lambda: installation.notes()["start odd"] == 6, message="all its attempts again")
    done = found(installation, "dead", "delete", "type:hopeless")
    assert (done["matched"], done["deleted"], done["dry_run"]) == (3, 3, False)
    assert installation.row(done["operation"]).type == "bulk"
    installation.wait_state(failing, "dead")
    assert [entry["id"] for entry in found(installation, "dead", "list")["tasks"]] == [failing]
    detached = run(installation, "dead", "delete", "type:failing", "--detach")
    assert f"sytq wait {detached.stdout.strip()}" in detached.stderr
    installation.wait_state(detached.stdout.strip(), "succeeded")
    assert found(installation, "dead", "list")["tasks"] == []


def test_dead_letters_are_shown_with_their_bytes(installation: Installation) -> None:
    redis, keys = installation.runtime.redis, installation.runtime.keys
    junk = b"\xff\x1b[31m nothing"
    redis.ask("XADD", keys.stream("plain", "normal"), "*", "id", "x", "message", junk)
    installation.start_worker()
    poll(lambda: installation.runtime.inspection.unreadable().items, message="it is set aside")
    (message,) = found(installation, "dead", "unreadable")["messages"]
    assert base64.b64decode(message["raw_base64"]) == junk
    shown = run(installation, "dead", "unreadable").stdout
    assert message["id"] in shown and "\\xff\\x1b[31m nothing" in shown


def test_send_with_a_taken_unique_key_returns_the_existing_task(installation: Installation) -> None:
    submit = ("send", "lonely", payload(installation, "a"))
    first = run(installation, *submit).stdout
    again = run(installation, *submit)
    assert again.stdout == first and "same unique key" in again.stderr
    assert found(installation, *submit) == {"id": first.strip(), "accepted": False}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("ls", "state:pending"), 1, "'pending' is not a state; valid: queued, scheduled, running"),
        (("ls", "queue:nosuch"), 1, "queue: 'nosuch' is not a queue; valid: "),
        (("ls", "type:nosuch"), 1, "type: 'nosuch' is not a task type; valid: "),
        (("ls", "--after", "nosuch"), 1, "after: 'nosuch' is no cursor"),
        (("show", "nosuch"), 1, "id: there is no task 'nosuch'"),
        (("cancel", "nosuch"), 1, "id: there is no task 'nosuch'"),
        (("tasks", "reschedule", "nosuch", "2026-07-01 12:00"), 2, "valid: now, a duration such as 10m"),
        (("send", "plain", "{}"), 1, "journal: Field required"),
        (("send", "plain", '{"a": 1, "a": 2}'), 1, "a: the key occurs twice in one object"),
        (("send", "plain", "{}", "--priority", "top"), 2, "valid: urgent, high, normal, low"),
        (("types", "pause", "nosuch", "--why", "x"), 1, "type: 'nosuch' is not a task type; valid: "),
        (("dead", "list", "finished:<yesterday"), 1, "query: at character 11: finished: 'yesterday' is not valid"),
        (("dead", "delete", "state:dead,queued"), 1, "'state:queued' is not valid here"),
    ],
)
def test_invalid_arguments_are_refused_with_the_valid_values(
    installation: Installation, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = run(installation, *arguments, status=status)
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert words in last and (status == 2 or done.stderr.count("\n") == 1)


def test_tasks_are_shown_and_submitted_while_redis_is_unavailable(tmp_path: Path, redis_url: str) -> None:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url)
    task = made.submit("plain", "a")
    made.environ["SYTQ_REDIS__URL"] = f"redis://127.0.0.1:{free_port()}/0"
    listed = run(made, "ls", "--json")
    assert json.loads(listed.stdout)["tasks"][0]["id"] == task
    shown = run(made, "show", task, "--json")
    assert json.loads(shown.stdout)["id"] == task and "Redis does not answer" in shown.stderr
    second = run(made, "send", "plain", payload(made, "b"))
    assert second.stdout == f"{made.runtime.ledger.get(second.stdout.strip()).id}\n"  # and nothing else
    assert "sytq: Redis does not answer" in run(made, "queues", "list", status=1).stderr
    made.close()


def test_a_schedule_is_paused_resumed_and_triggered(installation: Installation) -> None:
    installation.environ["SYTQ_SCHEDULES__NIGHTLY"] = '{"type": "default", "cron": "0 3 * * *"}'
    assert found(installation, "schedules", "pause", "nightly", "--why", "[bold]moving") == {
        "schedule": "nightly",
        "paused": True,
    }
    assert f"by {getpass.getuser()}: [bold]moving" in run(installation, "schedules", "list").stdout
    (entry,) = [
        entry for entry in found(installation, "schedules", "list", "--next", "2") if entry["name"] == "nightly"
    ]
    assert entry["paused"]["why"] == "[bold]moving" and len(entry["next"]) == 2
    assert found(installation, "schedules", "resume", "nightly")["paused"] is False
    triggered = found(installation, "schedules", "trigger", "nightly")
    assert triggered["accepted"] and installation.row(triggered["id"]).type == "default"


def test_a_long_name_of_a_type_does_not_run_into_its_value(
    installation: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = installation.submit("plain", "a")
    monkeypatch.setattr(TaskType, "shown", lambda *_: {"finish reason": "stop"})
    row = installation.runtime.ledger.get(task)
    assert row is not None
    print_task(installation.runtime, row, payload=True, json_wanted=False)
    assert "\nfinish reason stop\n" in capsys.readouterr().out
