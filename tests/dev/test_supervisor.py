"""`sytq dev`: one command in any folder, its real processes, and their end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from sytq.dev import snippets
from tests.dev.processes import Dev
from tests.provider import REPORT, ScriptedProvider, answers, hangs, later, refuses
from tests.servers import free_port, poll
from tests.tools import required

ROOT = Path(__file__).resolve().parent.parent.parent
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
WENT_THROUGH = "The sample valuation and its callback went through"

QUICK = """
from pydantic import BaseModel
from sytq import task

class Nothing(BaseModel):
    pass

@task("quick", payload=Nothing)
def quick(ctx, payload):
    return "done"
"""

Start = Callable[..., Dev]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `sytq dev`; its processes are killed after the test."""
    started: list[Dev] = []

    def begin(folder: Path, *arguments: str, **options: str | int) -> Dev:
        started.append(Dev(folder, *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for dev in started:
        dev.kill_all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name has a blank and an umlaut."""
    return tmp_path_factory.mktemp("a folder für dev")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Dev]:
    """A run whose worker is killed during the sample."""
    provider = ScriptedProvider()
    provider.play(hangs, later(2, answers()))
    dev = Dev(folder, **asking(provider))
    try:
        dev.until_said("A sample valuation")
        poll(lambda: provider.calls, message=lambda: dev.said)
        poll(lambda: state_of(dev, "llm") == "active", message=lambda: dev.said)
        workers = [pid for pid, command in dev.processes().items() if command.endswith(" worker ")]
        for pid in sorted(workers):  # the first process too, and first: it would replace the other one itself
            os.kill(pid, signal.SIGKILL)
        yield dev
    finally:
        dev.kill_all()
        provider.close()


@pytest.fixture
def silent_provider() -> Iterator[ScriptedProvider]:
    """A provider that never answers, so that the sample keeps running."""
    provider = ScriptedProvider()
    provider.play(hangs)
    yield provider
    provider.close()


def asking(provider: ScriptedProvider) -> dict[str, str]:
    """Settings that replace the practice provider, whose answer of 2 s is too short on a busy machine."""
    return {"SYTQ_PROVIDERS__SCRIPTED__BASE_URL": provider.base_url, "SYTQ_PROVIDERS__SCRIPTED__MODEL": "valuer-1"}


def state_of(dev: Dev, queue: str) -> str | None:
    tasks = requests.get(f"{dev.api}/api/tasks", {"queue_name": queue, "limit": 1}, timeout=60).json()["data"]["tasks"]
    return tasks[0]["status"] if tasks else None


def types_of(dev: Dev) -> str:
    """The task types of the API as it lists them; nothing while it does not answer."""
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{dev.api}/v2/types", timeout=60).text
    return ""


def status(dev: Dev, task_id: str) -> str:
    return str(requests.get(f"{dev.api}/api/tasks/{task_id}", timeout=60).json()["data"]["status"])


def test_once_exits_0_and_prints_the_report(tmp_path: Path, start: Start) -> None:
    once = start(tmp_path, "--once", "--seed", "200")
    assert once.wait() == 0, once.said
    assert "history   200 made-up tasks" in once.said
    assert f"dashboard {once.api}/dashboard" in once.said
    assert re.search(r"provider +PRACTICE provider, http://127\.0\.0\.1:\d+/v1: no model is asked", once.said)
    assert "A sample valuation, asked of the practice provider" in once.said
    assert "Practice valuation (no real model was asked)" in once.said
    assert WENT_THROUGH in once.said
    assert once.processes() == {}

    stages = re.findall(r"^ +(\d+\.\d{3})  (.*)$", once.said, re.MULTILINE)
    words = ["accepted", "attempt 1 started", "provider 'practice' answered", "report written", "callback received"]
    assert [next(word for word in words if word in text) for _, text in stages] == words
    assert "signature verified" in stages[-1][1]
    seconds = [float(at) for at, _ in stages]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] < seconds[-1] < 60


def test_killed_worker_is_replaced_and_the_sample_succeeds(running: Dev) -> None:
    running.until_said("the worker ended unexpectedly")
    running.until_said(WENT_THROUGH)
    assert running.said.count("report written into row") == 1
    assert "attempt 1 ended (lost)" in running.said
    assert running.said.count("attempt 1 started") == 2  # a crash uses no attempt


def test_data_folder_is_private_to_the_account(running: Dev, folder: Path) -> None:
    assert stat.S_IMODE((folder / ".sytq").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ".sytq" / "webhook.secret").stat().st_mode) == 0o600
    assert not list(folder.glob("sytq.ledger.database*")), "data belongs into .sytq"


def test_the_printed_env_file_works_when_pasted(running: Dev) -> None:
    running.until_said(WENT_THROUGH)
    command = running.until_said(r"\n`(.+) ls`, `.+ top` and all other commands find this service after\n")[1]
    line = running.until_said(r"\n(\. \S.*/env'?)\n")[1]
    done = pasted(f"{line} && {command} ls --json && {command} send default a=1 --wait", {"PATH": os.environ["PATH"]})
    listed, result = done.stdout.splitlines()
    assert any(task["type"] == "llm" for task in json.loads(listed)["tasks"])
    assert json.loads(result) == {"a": "1"}


def test_the_printed_curl_command_works_when_pasted(running: Dev) -> None:
    running.until_said(WENT_THROUGH)
    curl = snippets.curl(running.api)
    assert curl in running.said
    required("curl", "package curl")
    done = pasted(curl)
    task_id = re.search(rf'"task_id": ?"({UUID})"', done.stdout)
    assert task_id is not None, done
    assert re.search('"code": ?200', done.stdout)
    assert json.loads(done.stdout[done.stdout.rindex('{"id"') :])["result"]["report"] == REPORT
    assert status(running, task_id[1]) == "completed"


def test_the_printed_php_command_works_when_pasted(running: Dev) -> None:
    running.until_said(WENT_THROUGH)
    php = snippets.php(running.api)
    assert php in running.said
    required("php", "package php-cli")
    done = pasted(php)
    assert re.fullmatch(rf"({UUID}) (?:(?:pending|active)\n(?s:.*)\1 )?completed\n{REPORT}\n", done.stdout), done


def test_the_printed_php_command_ends_without_an_api() -> None:
    required("php", "package php-cli")
    script = snippets.php(f"http://127.0.0.1:{free_port()}")
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Connection refused" in done.stdout + done.stderr


def pasted(
    script: str, environ: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script as a person does who pastes it into a shell."""
    done = subprocess.run(["/bin/sh", "-c", script], env=environ, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    return done


def test_readme_shows_the_printed_snippets() -> None:
    readme = (ROOT / "README.md").read_text()
    assert snippets.curl("http://127.0.0.1:8080") in readme
    assert snippets.php("http://127.0.0.1:8080") in readme


def test_readmes_other_first_tasks_work_when_pasted(running: Dev, folder: Path) -> None:
    running.until_said(WENT_THROUGH)
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    row, request = (block for block in blocks if "valuation_records" in block or "/hook" in block)
    for _ in range(2):  # the row may be there already
        done = pasted(row.replace("http://127.0.0.1:8080", running.api), cwd=folder)
        assert json.loads(done.stdout)["result"] | {"id": 123, "report": REPORT} == json.loads(done.stdout)["result"]
    script = request.replace("http://127.0.0.1:8080", running.api).replace("https://example.com", "http://127.0.0.1:1")
    shown, _, outcome = pasted(script).stdout.partition("}{")
    assert '"type":"webhook"' in shown and re.search('"outcome":"(cancelled|asked)"', outcome), (shown, outcome)


def test_second_dev_in_the_same_folder_is_refused(running: Dev, folder: Path) -> None:
    second = Dev(folder)
    try:
        assert second.wait() == 1
        assert second.said.strip() == (
            f"sytq: {folder}/.sytq is in use by another `sytq dev` (pid {running.process.pid}); "
            "stop that one or use another folder"
        )
    finally:
        second.process.kill()


def test_killed_redis_is_replaced_with_its_data(running: Dev) -> None:
    running.until_said(WENT_THROUGH)
    os.kill(running.pid_of("/.sytq/redis/redis.sock"), signal.SIGKILL)
    running.until_said("Redis ended unexpectedly")
    answer = requests.post(f"{running.api}/api/v1/tasks/llm", json={"prompt": "after Redis"}, timeout=60)
    assert answer.status_code == 200, answer.text
    poll(lambda: status(running, answer.json()["task_id"]) == "completed")


def test_refused_key_of_a_provider_is_said_during_the_sample(tmp_path: Path, start: Start) -> None:
    provider = ScriptedProvider()
    provider.play(refuses(401))
    try:
        dev = start(tmp_path, "--once", **asking(provider))
        dev.until_said(r"\n  waiting for provider:scripted: paused .* HTTP 401 .*providers\.scripted\.api_key")
    finally:
        provider.close()


def test_sigterm_ends_every_process(running: Dev) -> None:
    running.until_said(WENT_THROUGH)
    began = time.monotonic()
    running.process.terminate()
    assert running.wait(10) == 0, running.said
    assert time.monotonic() - began < 10
    assert running.processes() == {}


def test_saved_plugin_restarts_the_api_while_the_worker_drains(
    tmp_path: Path, start: Start, silent_provider: ScriptedProvider
) -> None:
    (tmp_path / "plugins").mkdir()
    dev = start(tmp_path, SYTQ_WORKER__SHUTDOWN_TIMEOUT="600s", **asking(silent_provider))
    poll(lambda: "A sample" in dev.said and state_of(dev, "llm") == "active", message=lambda: dev.said)
    worker, api = dev.pid_of(" worker "), dev.pid_of("gunicorn")
    (tmp_path / "plugins" / "quick.py").write_text(QUICK)
    poll(lambda: "quick" in types_of(dev), message=lambda: dev.said)
    assert worker in dev.processes()
    assert api not in dev.processes()
    assert state_of(dev, "llm") == "active"
    assert "ended unexpectedly" not in dev.said


def test_ctrl_c_during_the_sample_ends_every_process(
    tmp_path: Path, start: Start, silent_provider: ScriptedProvider
) -> None:
    deep = tmp_path / ("n" * 120)  # too deep for a Unix socket
    deep.mkdir()
    dev = start(deep, **asking(silent_provider))
    poll(lambda: "A sample" in dev.said and state_of(dev, "llm") == "active", message=lambda: dev.said)
    assert re.search(r"redis +\S+, redis://127\.0\.0\.1:\d+/0", dev.said)
    os.killpg(dev.process.pid, signal.SIGINT)  # to the whole foreground group, as a terminal does
    assert dev.wait(10) == 0, dev.said
    assert dev.processes() == {}
    assert "Traceback" not in dev.said


def test_sigkilled_dev_does_not_block_the_next_start(
    tmp_path: Path, start: Start, silent_provider: ScriptedProvider
) -> None:
    first = start(tmp_path, **asking(silent_provider))
    first.until_said("A sample valuation")
    poll(lambda: state_of(first, "llm") == "active", message=lambda: first.said)
    first.process.kill()
    first.process.wait()
    second = start(tmp_path, port=first.port)
    second.until_said(WENT_THROUGH)
    assert re.search(r"database +SQLite, .*, 1 tasks in it", second.said), "the data survives"
    assert [command for command in first.processes().values() if "redis" not in command] == []
    # The task of the first run ends as well.
    tasks = requests.get(f"{second.api}/api/tasks", {"queue_name": "llm"}, timeout=60).json()["data"]["tasks"]
    assert len(tasks) == 2
    poll(lambda: [status(second, task["task_id"]) for task in tasks] == ["completed"] * 2)

    # The same with the guard killed, which terminates worker and API.
    os.kill(second.pid_of("/bin/sh"), signal.SIGKILL)
    second.process.kill()
    second.process.wait()
    third = start(tmp_path, port=first.port)
    third.until_said("ended the worker that an earlier, killed run had left")
    third.until_said(r"api +http")
    assert [command for command in second.processes().values() if "redis" not in command] == []

    # Without a next run, at most Redis stays.
    third.process.kill()
    third.process.wait()
    poll(lambda: all("redis" in command for command in third.processes().values()), message=third.processes)


def test_taken_port_is_reported_before_anything_starts(tmp_path: Path, start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        dev = start(tmp_path, "--once", port=port)
        assert dev.wait() == 1
    line = dev.said.strip()
    assert re.fullmatch(
        rf"sytq: cannot listen on 127\.0\.0\.1:{port}: the port is taken; another port: "
        r"sytq dev --port (\d+) \(or SYTQ_API__PORT=\1\)",
        line,
    ), line
    assert not (tmp_path / ".sytq" / "redis").exists()


def test_failed_sample_and_broken_plugin_are_reported_with_reasons(tmp_path: Path, start: Start) -> None:
    closed = f"http://127.0.0.1:{free_port()}/v1"
    own = {"SYTQ_PROVIDERS__MINE__BASE_URL": closed, "SYTQ_PROVIDERS__MINE__MODEL": "m", "SYTQ_QUEUE__RETRY": "0"}
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "broken.py").write_text("import no_such_module\n")
    dev = start(tmp_path, "--once", **own)
    assert dev.wait() == 1, dev.said
    assert re.search("plugin +plugins/broken.py is set aside: .*no_such_module", dev.said)
    assert f"provider  mine, {closed}" in dev.said
    assert "The sample valuation did not go through: the task ended dead: mine: no connection" in dev.said
    assert "PRACTICE" not in dev.said
    assert dev.processes() == {}


def test_invalid_configuration_is_one_message(tmp_path: Path, start: Start) -> None:
    dev = start(tmp_path, "--once", SYTQ_WORKER__THREADS="many")
    assert dev.wait() == 2
    assert "worker.threads" in dev.said
    assert "Traceback" not in dev.said
    assert not (tmp_path / ".sytq").exists()


def test_configured_redis_and_database_are_not_embedded(
    redis_url: str, mysql_url: str, tmp_path: Path, start: Start
) -> None:
    configured = f"""
        redis: {{url: "{redis_url}"}}
        database: {{url: "{mysql_url}"}}
        deepseek: {{api_key: ""}}
        auth: {{enabled: true, users: {{ann: secret-of-ann}}}}
        """
    (tmp_path / "sytq.yaml").write_text(configured)
    dev = start(tmp_path, "--once", SYTQ_CONFIG="sytq.yaml")
    assert dev.wait() == 0, dev.said
    assert re.search(r"database +the configured one", dev.said)
    assert re.search(r"redis +the configured one", dev.said)
    assert not (tmp_path / ".sytq" / "redis").exists()
    assert not (tmp_path / ".sytq" / "sytq.db").exists()
    assert "secret-of-ann" not in dev.said
