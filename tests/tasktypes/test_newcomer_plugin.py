"""The first hour with docs/plugins.md: a task type is written, run, called over HTTP, changed and tested."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import forkserver
from tests.dev.processes import Dev
from tests.servers import poll

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
WRITE, RUN, CALL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")}


def shell(folder: Path, script: str) -> str:
    """What the shell prints for a script as a person types it; every line of it must succeed."""
    done = subprocess.run(
        ["/bin/sh", "-euc", script], cwd=folder, env=ENVIRON, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def type_in(folder: Path, line: str) -> str:
    """What an installed program prints for a line as a person types it."""
    program, *arguments = shlex.split(line)
    path = str(Path(sys.executable).with_name(program))
    done = forkserver.run(path, arguments, environ=ENVIRON, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(dev: Dev, type_name: str, **payload: Any) -> str:
    answer = requests.post(f"{dev.api}/v2/tasks", json={"type": type_name, "payload": payload}, timeout=90)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def shown(dev: Dev, task_id: str, wait: int = 0) -> dict[str, Any]:
    """The task, once it has ended or `wait` seconds are over."""
    headers = {"Prefer": f"wait={wait}"} if wait else {}
    found: dict[str, Any] = requests.get(f"{dev.api}/v2/tasks/{task_id}", headers=headers, timeout=90).json()
    return found


def call(dev: Dev, type_name: str, **payload: Any) -> dict[str, Any]:
    """Submit a task and wait for its end."""
    return shown(dev, submit(dev, type_name, **payload), wait=60)


SLOW = """
import time
from pydantic import BaseModel
from sytq import Backoff, task

class Nothing(BaseModel):
    pass

@task("slow", payload=Nothing, retry=Backoff(max_attempts=1), timeout="60s")
def slow(ctx, payload):
    ctx.step("began", lambda: True)
    time.sleep(4)
    return "rested"
"""


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    """A `sytq dev` in a folder without plugins; its workers stop at once."""
    started = Dev(tmp_path, SYTQ_WORKER__SHUTDOWN_TIMEOUT="1s")
    started.until_said("Running; Ctrl-C ends it")
    yield started
    started.kill_all()


def test_a_new_type_runs_reloads_and_passes_its_tests(dev: Dev, tmp_path: Path) -> None:
    """Long, as each of its two reloads starts API and worker anew."""
    assert RUN == "sytq dev\n"
    file = tmp_path / "plugins" / "greet.py"
    new, *others = WRITE.splitlines()
    type_in(tmp_path, new)  # makes the folder
    (tmp_path / "plugins" / "slow.py").write_text(SLOW)
    dev.until_said(r"Reloaded .*plugins/slow\.py\.")
    said = "".join(type_in(tmp_path, line) for line in others)
    assert "ok (greet; 4 tests passed" in said
    assert "4 passed" in said
    greeted = json.loads(shell(tmp_path, CALL.replace("http://127.0.0.1:8080", dev.api)))
    assert (greeted["state"], greeted["result"]) == ("succeeded", {"greeting": "Hello, Ada!"})
    refused = requests.post(f"{dev.api}/v2/tasks", json={"type": "greet", "payload": {"nome": "Ada"}}, timeout=90)
    assert refused.status_code == 400 and "name" in refused.text

    # A broken file changes nothing.
    reloads = dev.said.count("Reloaded")
    text = file.read_text().replace("Hello, ", "Good morning, ")
    file.write_text(text + "\ndef broken(:\n")
    problem = dev.until_said(r"plugins/greet\.py:(\d+): syntax error: .*\nNot reloaded")
    assert int(problem[1]) == len(text.splitlines()) + 2
    file.write_text(text.replace("Context, task", "Contxt, task"))
    dev.until_said(r"plugins/greet\.py:\d+: ImportError: .*Contxt.*\nNot reloaded")
    assert dev.said.count("Reloaded") == reloads
    assert call(dev, "greet", name="Ada")["result"] == {"greeting": "Hello, Ada!"}

    # The slow task runs longer than a worker's shutdown may take, so the reload requeues it.
    slow = submit(dev, "slow")
    poll(lambda: shown(dev, slow)["state"] == "running", message=lambda: dev.said)
    file.write_text(text)
    dev.until_said("Reloaded", times=reloads + 1)
    assert call(dev, "greet", name="Ada")["result"] == {"greeting": "Good morning, Ada!"}
    rested = shown(dev, slow, wait=60)
    assert (rested["state"], rested["result"], rested["attempts"]) == ("succeeded", "rested", 1)
    assert "ended unexpectedly" not in dev.said
