"""API and workers run within the hardening of their units."""

from __future__ import annotations

import ctypes.util
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.provider import ScriptedProvider
from tests.receiver import Receiver
from tests.servers import free_port, poll
from tests.tools import required

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")]
ROOT = Path(__file__).parents[2]
CONFINE = Path(__file__).parent / "confine.py"


def confined(unit: str, *command: str) -> list[str]:
    return [sys.executable, str(CONFINE), str(ROOT / "systemd" / unit), *command]


@pytest.fixture(autouse=True)
def possible() -> None:
    required("systemd-analyze", "package systemd")
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("libseccomp is not installed")
    probe = subprocess.run(confined("sytq-api.service", "true"), capture_output=True, timeout=60)
    if probe.returncode == 77:
        pytest.skip("this kernel takes no system call filter from us")
    assert probe.returncode == 0, probe.stderr


@pytest.mark.parametrize("unit", ["sytq-api.service", "sytq-worker@.service"])
def test_filtered_system_calls_are_refused(unit: str) -> None:
    code = "import os\ntry: os.setpriority(os.PRIO_PROCESS, 0, 5)\nexcept PermissionError: print('refused')"
    done = subprocess.run(confined(unit, sys.executable, "-c", code), capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done.stderr


@pytest.fixture
def external_services() -> Iterator[tuple[ScriptedProvider, Receiver]]:
    provider, receiver = ScriptedProvider(), Receiver()
    yield provider, receiver
    provider.close()
    receiver.close()


def test_api_and_workers_run_tasks_within_the_hardening(
    tmp_path: Path, redis_url: str, external_services: tuple[ScriptedProvider, Receiver]
) -> None:
    provider, receiver = external_services
    port, health = free_port(), free_port()
    settings = {
        "SYTQ_API__PORT": str(port),
        "SYTQ_WORKER__PORT": str(health),
        "SYTQ_WORKER__PROCESSES": "1",
        "SYTQ_WORKER__SHUTDOWN_TIMEOUT": "10s",
        "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "SYTQ_PROVIDERS__SCRIPTED__BASE_URL": provider.base_url,
        "SYTQ_PROVIDERS__SCRIPTED__API_KEY": "sk-scripted",
        "SYTQ_PROVIDERS__SCRIPTED__MODEL": "valuer-1",
        # A command type: the worker starts a process.
        "SYTQ_TYPES__STAMP": json.dumps({"command": ["/bin/sh", "-c", "cat; echo done"]}),
        "RUNTIME_DIRECTORY": str(tmp_path),
    }
    on = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, **settings)
    logs = {what: tmp_path / f"{what}.log" for what in ("api", "worker")}
    started = [
        subprocess.Popen(
            confined(unit, sys.executable, "-m", "sytq.cli", what),
            env=on.environ,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=logs[what].open("ab"),
            stderr=subprocess.STDOUT,
        )
        for what, unit in (("api", "sytq-api.service"), ("worker", "sytq-worker@.service"))
    ]

    def said() -> str:
        return "".join(log.read_text() for log in logs.values())

    def ready() -> bool:
        try:
            for one in (port, health):
                with urllib.request.urlopen(f"http://127.0.0.1:{one}/healthz/ready", timeout=90) as reply:
                    if reply.status != 200:
                        return False
        except OSError:
            return False
        return True

    def post(path: str, body: object) -> str:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=90) as reply:
            answer = json.load(reply)
        return str(answer.get("task_id") or answer.get("id") or answer.get("job_id"))

    def work() -> None:
        tasks = [
            post("/api/v1/tasks", {"url": receiver.url}),
            post("/api/v1/tasks/llm", {"prompt": "What is it worth?", "callback_url": receiver.url}),
            post("/jobs?type=backup", {}),
            post("/jobs?type=report", {}),
            post("/v2/tasks", {"type": "stamp", "payload": {}}),
        ]
        for task in tasks:
            on.wait_state(task, "succeeded", "dead", timeout=60)
        assert {task: on.row(task).error for task in tasks} == dict.fromkeys(tasks)

    try:
        poll(ready, timeout=60, interval=0.2, message=said)
        work()
        booted = said().count("worker started")
        for process in started:
            process.send_signal(signal.SIGHUP)  # systemctl reload
        poll(lambda: said().count("worker started") > booted and ready(), timeout=60, interval=0.2, message=said)
        work()
        for process in started:
            process.terminate()
        assert [process.wait(60) for process in started] == [0, 0], said()
        assert "Traceback" not in said()
        assert "not permitted" not in said()
    finally:
        for process in started:
            process.kill()
        on.close()
