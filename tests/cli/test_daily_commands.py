"""`sytq send`, `wait`, `retry` and `cancel`: the installed program, real workers, and its exit statuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port, poll
from tests.terminal import PROGRAM, Terminal, sytq
from tests.workers import Installation


def run(
    installation: Installation, *arguments: str, status: int = 0, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    done = sytq(*arguments, environ=installation.environ, stdin=stdin)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def busy(installation: Installation) -> Installation:
    installation.start_worker()
    return installation


@pytest.fixture
def on_mysql(tmp_path: Path, mysql_url: str, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, mysql_url, redis_url)
    yield made
    made.close()


def test_a_payload_is_written_as_fields_and_files(installation: Installation, tmp_path: Path) -> None:
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
    for words, stdin in ((["-"], b'{"a": "\xc3\xa4"}'), (['{"a": "\u00e4"}'], b""), (["a=\u00e4"], b"")):
        task = run(installation, "send", "default", *words, stdin=stdin).stdout.strip()
        assert json.loads(installation.row(task).payload) == {"a": "\u00e4"}


def test_text_becomes_what_the_type_wants(installation: Installation) -> None:
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
def test_what_cannot_be_sent_names_the_field_and_what_is_valid(
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


def test_a_sent_task_is_waited_for_and_its_result_printed(busy: Installation) -> None:
    journal = f"journal={busy.journal}"
    done = run(busy, "send", "plain", journal, "name=a", "--wait", "--queue", "gentle")
    assert json.loads(done.stdout) == {"name": "a"} and busy.row(done.stderr.strip()).queue == "gentle"
    died = run(busy, "send", "hopeless", journal, "--wait", "--json", status=3)
    assert json.loads(died.stdout)["state"] == "dead"
    assert "dead: " in run(busy, "send", "hopeless", journal, "--wait", status=3).stderr
    slow = run(busy, "send", "plain", journal, "--at", "1h", "--wait", "--timeout", "100ms", status=5)
    task = slow.stderr.split()[0]
    assert slow.stdout == "" and f"`sytq wait {task}` waits longer" in slow.stderr
    run(busy, "cancel", task)
    assert run(busy, "wait", task, status=4).stdout.startswith(f"{task}  cancelled  cancelled by ")


def test_wait_tells_by_its_exit_status_how_tasks_ended(busy: Installation) -> None:
    good, dead, far = busy.submit("plain", "g"), busy.submit("hopeless"), busy.submit("plain", seconds=600)
    run(busy, "wait", good)
    busy.wait_state(dead, "dead")
    busy.wait_state(far, "running")
    lines = run(busy, "wait", good, dead, far, "--timeout", "2s", status=3).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[good, "succeeded"], [dead, "dead"], [far, "not"]]
    told = json.loads(run(busy, "wait", good, far, "--timeout", "100ms", "--json", status=5).stdout)
    assert [task["state"] for task in told["tasks"]] == ["succeeded", "running"]
    assert "there is no task 'nosuch'" in run(busy, "wait", good, "nosuch", status=1).stderr


def test_wait_says_that_there_is_no_worker(installation: Installation) -> None:
    done = run(installation, "wait", installation.submit("plain"), "--timeout", "7s", status=5)
    assert done.stderr == "No worker is running; see `sytq doctor`.\n"


def test_wait_shows_progress_and_ctrl_c_leaves_the_task_alone(busy: Installation) -> None:
    task = busy.submit("gentle", "g", seconds=600)
    busy.wait_note("start g")
    terminal = Terminal("wait", task, environ=busy.environ)
    terminal.wait_for("running half way")
    terminal.type("\x03")
    assert terminal.ended() == 130
    assert busy.row(task).state == "running" and "Traceback" not in terminal.text
    terminal.close()


def test_wait_outlasts_a_redis_that_is_away(installation: Installation) -> None:
    environ = installation.environ | {"SYTQ_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0"}
    task = installation.submit("plain", "a")
    waiting = subprocess.Popen([PROGRAM, "wait", task], env=environ, stdout=subprocess.PIPE, text=True)
    installation.start_worker()
    assert waiting.communicate(timeout=60)[0].startswith(f"{task}  succeeded") and waiting.returncode == 0


def test_a_task_is_retried_by_its_id(on_mysql: Installation) -> None:
    on_mysql.start_worker()
    dead, good = on_mysql.submit("hopeless", "h"), on_mysql.submit("plain", "p")
    on_mysql.wait_state(dead, "dead")
    on_mysql.wait_state(good, "succeeded")
    assert run(on_mysql, "retry", dead).stdout == f"{dead} is queued again\n"
    poll(lambda: on_mysql.notes()["start h"] == 2, message="it ran again")
    on_mysql.wait_state(dead, "dead")
    refused = run(on_mysql, "retry", good, dead, "--json", status=1)
    outcomes = [(task["id"], task["outcome"]) for task in json.loads(refused.stdout)["tasks"]]
    assert outcomes == [(good, "refused"), (dead, "queued")]


def test_a_task_whose_key_another_one_has_by_now_is_not_retried(busy: Installation) -> None:
    dead = busy.submit("lonely", "fails")
    busy.wait_state(dead, "dead")
    run(busy, "send", "lonely", f"journal={busy.journal}", "name=fails", "--at", "1h")
    assert "another unfinished task has its unique key" in run(busy, "retry", dead, status=1).stderr


def test_several_tasks_are_cancelled_or_none(installation: Installation) -> None:
    tasks = [installation.submit("plain", f"t{n}") for n in range(2)]
    assert "there is no task 'nosuch'" in run(installation, "cancel", *tasks, "nosuch", status=1).stderr
    assert [installation.row(task).state for task in tasks] == ["queued", "queued"]
    told = json.loads(run(installation, "cancel", *tasks, "--why", "a test", "--json").stdout)
    assert [task["outcome"] for task in told["tasks"]] == ["cancelled", "cancelled"]
