"""The first hour with docs/plugins.md: a task type is written, run, called over HTTP, changed and tested."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.dev.processes import Dev

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
WRITE, RUN, CALL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")}


def shell(folder: Path, script: str) -> str:
    """What the shell prints for a script as a person types it; every line of it must succeed."""
    environ = ENVIRON | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-euc", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(dev: Dev, type_name: str, **payload: Any) -> dict[str, Any]:
    """Submit a task and wait for its end."""
    answer = requests.post(f"{dev.api}/v2/tasks", json={"type": type_name, "payload": payload}, timeout=90)
    assert answer.status_code == 202, answer.text
    return finished(dev, answer.json()["id"])


def finished(dev: Dev, task_id: str) -> dict[str, Any]:
    seen = requests.get(f"{dev.api}/v2/tasks/{task_id}", headers={"Prefer": "wait=60"}, timeout=90)
    found: dict[str, Any] = seen.json()
    return found


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, list[Dev]]]:
    started: list[Dev] = []
    yield tmp_path, started
    for dev in started:
        dev.kill_all()


def test_a_new_type_runs_reloads_and_passes_its_tests(folder: tuple[Path, list[Dev]]) -> None:
    here, started = folder
    file = here / "plugins" / "greet.py"
    assert "ok (greet; 4 tests passed" in shell(here, WRITE)
    assert RUN == "sytq dev\n"
    started.append(dev := Dev(here))
    dev.until_said("Running; Ctrl-C ends it", timeout=90)
    task = json.loads(shell(here, CALL.replace("http://127.0.0.1:8080", dev.api)))
    assert (task["state"], task["result"]) == ("succeeded", {"greeting": "Hello, Ada!"})
    refused = requests.post(f"{dev.api}/v2/tasks", json={"type": "greet", "payload": {"nome": "Ada"}}, timeout=90)
    assert refused.status_code == 400 and "name" in refused.text

    edit(file, "Hello, ", "Good morning, ")
    dev.until_said(r"Reloaded plugins/greet\.py\.", timeout=120)
    assert call(dev, "greet", name="Ada")["result"] == {"greeting": "Good morning, Ada!"}
    assert "4 passed" in shell(here, "pytest plugins/greet.py")


SLOW = """
import time
from pydantic import BaseModel
from sytq import Backoff, task

class Nothing(BaseModel):
    pass

@task("slow", payload=Nothing, retry=Backoff(max_attempts=1), timeout="60s")
def slow(ctx, payload):
    ctx.step("began", lambda: True)
    time.sleep(6)
    return "rested"
"""


def test_a_reload_loses_no_task_and_ignores_a_broken_file(folder: tuple[Path, list[Dev]]) -> None:
    here, started = folder
    started.append(dev := Dev(here))
    dev.until_said("Running; Ctrl-C ends it", timeout=90)

    (here / "plugins").mkdir()  # only now
    (here / "plugins" / "slow.py").write_text(SLOW)
    dev.until_said(r"Reloaded plugins/slow\.py\.", timeout=120)
    answer = requests.post(f"{dev.api}/v2/tasks", json={"type": "slow"}, timeout=90)
    assert answer.status_code == 202, answer.text

    # It runs longer than a worker's shutdown may take, so it is requeued.
    shell(here, "sytq plugin new greet")
    dev.until_said(r"Reloaded plugins/greet\.py\.", timeout=120)
    rested = finished(dev, answer.json()["id"])
    assert (rested["state"], rested["result"], rested["attempts"]) == ("succeeded", "rested", 1)

    text = (here / "plugins" / "greet.py").read_text()
    (here / "plugins" / "greet.py").write_text(text.replace("Hello", "Bye") + "\ndef broken(:\n")
    said = dev.until_said(r"plugins/greet\.py:(\d+): syntax error: .*\nNot reloaded", timeout=120)
    assert int(said[1]) == len(text.splitlines()) + 2
    assert call(dev, "greet", name="Ada")["result"] == {"greeting": "Hello, Ada!"}
    (here / "plugins" / "greet.py").write_text(text.replace("Hello", "Bye").replace("Context, task", "Contxt, task"))
    dev.until_said(r"plugins/greet\.py:\d+: ImportError: .*Contxt.*\nNot reloaded", timeout=120)

    (here / "plugins" / "greet.py").write_text(text.replace("Hello", "Bye"))
    dev.until_said(r"Reloaded plugins/greet\.py\.", times=2, timeout=120)
    assert call(dev, "greet", name="Ada")["result"] == {"greeting": "Bye, Ada!"}
    assert "ended unexpectedly" not in dev.said
