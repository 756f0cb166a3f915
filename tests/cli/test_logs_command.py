"""`sytq logs`: the events of tasks from both stores, by the installed program."""

from __future__ import annotations

import json
import subprocess
import time

from tests.installation import Installation
from tests.servers import poll
from tests.terminal import PROGRAM, Terminal, sytq


def events(output: str) -> list[str]:
    return [json.loads(line)["event"] for line in output.splitlines()]


def test_events_of_tasks_are_printed_in_order(with_worker: Installation) -> None:
    first, second = with_worker.submit("stepwise", "a"), with_worker.submit("failing", "b\x1b[31m")
    with_worker.wait_state(first, "succeeded")
    with_worker.wait_state(second, "dead")
    done = sytq("logs", first, second, environ=with_worker.environ)
    assert done.returncode == 0 and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert all(any(words in line and first in line for line in lines) for words in ("accepted", "step two done"))
    assert sum("ended, failed: ValueError: b" in line and f"{second}  failing" in line for line in lines) == 2
    assert lines[-1].endswith("  dead")
    alone = sytq("logs", first, "--json", environ=with_worker.environ)
    assert events(alone.stdout)[0] == "accepted" and events(alone.stdout)[-1] == "succeeded"
    assert second not in alone.stdout


def test_a_task_is_followed_to_its_end_with_its_progress(installation: Installation) -> None:
    installation.hold("g")
    task = installation.submit("gentle", "g")
    following = subprocess.Popen(
        [PROGRAM, "logs", "-f", task, "--json"], env=installation.environ, stdout=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    seen = following.stdout.readline()  # the command follows the task
    installation.start_worker()
    while "half way" not in seen:
        seen += (line := following.stdout.readline())
        assert line, f"it ended: {seen}"
    installation.release("g")
    printed = events(seen + following.communicate(timeout=90)[0])
    assert following.returncode == 0
    assert printed[0] == "accepted" and printed[-1] == "succeeded"
    assert "progress 1 of 2 half way" in printed
    assert any(line.startswith("attempt 1 started on ") for line in printed)
    assert len(printed) == len(set(printed))


def test_tasks_of_a_type_are_followed_until_ctrl_c(with_worker: Installation) -> None:
    terminal = Terminal("logs", "-f", "--type", "failing", environ=with_worker.environ, columns=200)
    # Only events after its start are printed, so tasks are submitted until one is.
    poll(lambda: began(with_worker, terminal), timeout=60, interval=0.5, message=lambda: terminal.text)
    assert "ended, dead: ValueError: x fails" in terminal.wait_for("ended, dead")
    assert "  plain  " not in terminal.text
    terminal.type("\x03")
    assert terminal.ended() == 130 and "Traceback" not in terminal.text
    terminal.close()


def began(installation: Installation, terminal: Terminal) -> bool:
    installation.submit("plain", "p")
    installation.submit("failing", "x")
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        terminal.read()
    return "attempt 1 started" in terminal.text


def test_logs_needs_ids_or_follow(installation: Installation) -> None:
    for arguments in ((), ("some-id", "--type", "plain")):
        done = sytq("logs", *arguments, environ=installation.environ)
        assert done.returncode == 2 and "give ids, or --follow" in done.stderr
    assert "there is no task 'nosuch'" in sytq("logs", "nosuch", environ=installation.environ).stderr
    assert "valid: backup" in sytq("logs", "-f", "--type", "nosuch", environ=installation.environ).stderr
