"""`sytq send`, `wait`, `retry` and `cancel`: the installed program, real workers, and its exit statuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers import free_port, poll
from tests.terminal import PROGRAM, Terminal, sytq


def run(
    installation: Installation, *arguments: str, status: int = 0, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    done = sytq(*arguments, environ=installation.environ, stdin=stdin)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return done


def test_payload_is_built_from_fields_and_files(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text('{"from": "file", "inner": {"kept": true}}')
    (tmp_path / "letter.txt").write_text("line one\nline two\n")
    task = run(
        installation,
        *("send", "default", f"@{tmp_path / 'whole.json'}", "text=a=b:=c", "n:=5", "list:=[1, null]", "empty="),
        *("inner.more=x", f"letter=@{tmp_path / 'letter.txt'}", f"json:=@{tmp_path / 'whole.json'}", "a.b.c:=-1.5"),
    ).stdout.strip()
    assert json.loads(installation.row(task).payload) == {
        "from": "file",
        "inner": {"kept": True, "more": "x"},
        "text": "a=b:=c",
        "n": 5,
        "list": [1, None],
        "empty": "",
        "letter": "line one\nline two\n",
        "json": {"from": "file", "inner": {"kept": True}},
        "a": {"b": {"c": -1.5}},
    }
    for words, stdin in ((["-"], '{"a": "\u00e4"}'), (['{"a": "\u00e4"}'], ""), (["a=\u00e4"], "")):
        task = run(installation, "send", "default", *words, stdin=stdin).stdout.strip()
        assert json.loads(installation.row(task).payload) == {"a": "\u00e4"}


def test_field_text_is_converted_by_the_payload_model(installation: Installation) -> None:
    task = run(installation, "send", "plain", "journal=/dev/null", "seconds=0.5").stdout.strip()
    assert json.loads(installation.row(task).payload) == {"journal": "/dev/null", "seconds": 0.5}


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("nosuch",), ["type: 'nosuch' is not a task type; valid: backup, "]),
        (("plain", "seconds=soon"), ["journal: Field required", "seconds: Input should be a valid number"]),
        (("webhook", "url=http://x.org", "colour=red"), ["colour: not a field; valid: url, method, headers, body"]),
        (("webhook", "url=http://10.0.0.1/"), ["url: "]),
        (("default", "nonsense"), ["nonsense: not a field; valid: key=value, key:=json"]),
        (("default", "a=1", "a=2"), ["a: given twice; write a list as a:="]),
        (("default", "a=1", "a.b=2"), ["a.b: 'a' already has a value that is not an object"]),
        (("default", "a..b=2"), ["a..b: part of the name is empty"]),
        (("default", "a:=yes"), ["a: not JSON: Expecting value"]),
        (("default", "a:=NaN"), ["a: NaN is not JSON"]),
        (("default", "@/no/such/file"), ["@/no/such/file: the file cannot be read: No such file"]),
        (("default", "a=@/no/such/file"), ["@/no/such/file: the file cannot be read: No such file"]),
        (("default", "-", "{}"), ["{}: give only one whole payload"]),
        (("default", "--queue", "nosuch"), ["queue: 'nosuch' is not a queue; valid: bulk, "]),
        (("lonely", "journal=x", "--unique", "k"), ["unique_key: tasks of type 'lonely' have a key of their own"]),
    ],
)
def test_refused_send_names_the_field_and_the_valid_values(
    installation: Installation, arguments: tuple[str, ...], lines: list[str]
) -> None:
    done = run(installation, "send", *arguments, status=1)
    assert done.stdout == "" and done.stderr.count("\n") == len(lines)
    for said, line in zip(done.stderr.splitlines(), lines, strict=True):
        assert said.startswith(f"sytq: {line}")
    assert json.loads(run(installation, "ls", "--json").stdout)["tasks"] == []


def test_a_task_is_sent_with_priority_time_key_and_queue(installation: Installation) -> None:
    send = (
        "send",
        "plain",
        "journal=/dev/null",
        "--priority",
        "high",
        "--at",
        "1h",
        "--unique",
        "k-1",
        "--queue",
        "gentle",
    )
    first = json.loads(run(installation, *send, "--json").stdout)
    row = installation.row(first["id"])
    assert first["accepted"] and (row.priority, row.queue) == ("high", "gentle") and row.unique_key.endswith(":k-1")
    assert row.state == "scheduled" and 3500 < (row.scheduled_at - row.created_at).total_seconds() <= 3601
    again = run(installation, *send)
    assert again.stdout.strip() == first["id"] and "same unique key" in again.stderr
    for option in (("--unique", "a b"), ("--priority", "top"), ("--at", "soon"), ("--timeout", "5s")):
        assert option[0] in run(installation, *send[:3], *option, status=2).stderr


def test_send_wait_prints_the_result_and_exits_by_outcome(with_worker: Installation) -> None:
    journal = f"journal={with_worker.journal}"
    done = run(with_worker, "send", "plain", journal, "name=a", "--wait", "--queue", "gentle")
    assert json.loads(done.stdout) == {"name": "a"} and with_worker.row(done.stderr.strip()).queue == "gentle"
    died = run(with_worker, "send", "hopeless", journal, "--wait", "--json", status=3)
    assert json.loads(died.stdout)["state"] == "dead"
    assert "dead: " in run(with_worker, "send", "hopeless", journal, "--wait", status=3).stderr
    slow = run(with_worker, "send", "plain", journal, "--at", "1h", "--wait", "--timeout", "100ms", status=5)
    task = slow.stderr.split()[0]
    assert slow.stdout == "" and f"`sytq wait {task}` waits longer" in slow.stderr
    run(with_worker, "cancel", task)
    assert run(with_worker, "wait", task, status=4).stdout.startswith(f"{task}  cancelled  cancelled by ")


def test_wait_exit_status_reports_how_tasks_ended(with_worker: Installation) -> None:
    with_worker.hold("far")
    good, dead, far = (
        with_worker.submit("plain", "g"),
        with_worker.submit("hopeless"),
        with_worker.submit("plain", "far"),
    )
    run(with_worker, "wait", good)
    with_worker.wait_state(dead, "dead")
    with_worker.wait_state(far, "running")
    lines = run(with_worker, "wait", good, dead, far, "--timeout", "2s", status=3).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[good, "succeeded"], [dead, "dead"], [far, "not"]]
    report = json.loads(run(with_worker, "wait", good, far, "--timeout", "100ms", "--json", status=5).stdout)
    assert [task["state"] for task in report["tasks"]] == ["succeeded", "running"]
    assert "there is no task 'nosuch'" in run(with_worker, "wait", good, "nosuch", status=1).stderr
    with_worker.release("far")


def test_wait_reports_that_no_worker_is_running(installation: Installation) -> None:
    done = run(installation, "wait", installation.submit("plain"), "--timeout", "5.5s", status=5)
    assert done.stderr == "No worker is running; see `sytq doctor`.\n"


def test_wait_shows_progress_and_ctrl_c_leaves_the_task_running(with_worker: Installation) -> None:
    with_worker.hold("g")
    task = with_worker.submit("gentle", "g")
    with_worker.wait_note("start g")
    terminal = Terminal("wait", task, environ=with_worker.environ)
    terminal.wait_for("running half way")
    terminal.type("\x03")
    assert terminal.ended() == 130
    assert with_worker.row(task).state == "running" and "Traceback" not in terminal.text
    terminal.close()
    with_worker.release("g")


def test_wait_succeeds_while_redis_is_unavailable(installation: Installation) -> None:
    environ = installation.environ | {"SYTQ_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0"}
    task = installation.submit("plain", "a")
    waiting = subprocess.Popen([PROGRAM, "wait", task], env=environ, stdout=subprocess.PIPE, text=True)
    installation.start_worker()
    assert waiting.communicate(timeout=60)[0].startswith(f"{task}  succeeded") and waiting.returncode == 0


def test_a_task_is_retried_by_its_id(running: Installation) -> None:
    dead, good = running.submit("hopeless", "h"), running.submit("plain", "p")
    running.wait_state(dead, "dead")
    running.wait_state(good, "succeeded")
    assert run(running, "retry", dead).stdout == f"{dead} is queued again\n"
    poll(lambda: running.notes()["start h"] == 2, message="it ran again")
    running.wait_state(dead, "dead")
    refused = run(running, "retry", good, dead, "--json", status=1)
    outcomes = [(task["id"], task["outcome"]) for task in json.loads(refused.stdout)["tasks"]]
    assert outcomes == [(good, "refused"), (dead, "queued")]


def test_retry_is_refused_while_another_task_has_the_unique_key(with_worker: Installation) -> None:
    dead = with_worker.submit("lonely", "fails")
    with_worker.wait_state(dead, "dead")
    run(with_worker, "send", "lonely", f"journal={with_worker.journal}", "name=fails", "--at", "1h")
    assert "another unfinished task has its unique key" in run(with_worker, "retry", dead, status=1).stderr


def test_cancel_of_several_tasks_is_all_or_nothing(installation: Installation) -> None:
    tasks = [installation.submit("plain", f"t{n}") for n in range(2)]
    assert "there is no task 'nosuch'" in run(installation, "cancel", *tasks, "nosuch", status=1).stderr
    assert [installation.row(task).state for task in tasks] == ["queued", "queued"]
    report = json.loads(run(installation, "cancel", *tasks, "--why", "a test", "--json").stdout)
    assert [task["outcome"] for task in report["tasks"]] == ["cancelled", "cancelled"]
