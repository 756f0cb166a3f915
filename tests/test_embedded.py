"""The embedded Redis: one server per folder, found again after a SIGKILL, gone after stop()."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sytq.embedded import SOCKET_PATH_MAX, EmbeddedServer, EmbeddedServerError, bundled_server, find_server
from tests.servers import poll

PROGRAMS = sorted(
    {path for path in (shutil.which("redis-server"), shutil.which("valkey-server"), bundled_server()) if path}
)

Make = Callable[[Path], EmbeddedServer]


@pytest.fixture(params=PROGRAMS, ids=lambda path: Path(path).name)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Build an EmbeddedServer for a folder with each server program of this machine; stopped afterwards."""
    made: list[EmbeddedServer] = []

    def build(folder: Path) -> EmbeddedServer:
        made.append(EmbeddedServer(folder, program=request.param))
        return made[-1]

    yield build
    for server in made:
        server.stop()


def run_owner(folder: Path, program: str) -> tuple[subprocess.Popen[str], int]:
    """Start a Python process that owns the folder's server; returns it and the server's pid."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from sytq.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(Path(sys.argv[1]), program=sys.argv[2])\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def gone(pid: int) -> bool:
    """Whether the process has ended (an orphan nobody reaps stays in the table as a zombie)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip().startswith("Z") or not state.strip()


def test_server_program_is_found() -> None:
    assert os.access(find_server(), os.X_OK)


def test_started_server_answers_on_a_socket_and_on_no_port(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "d")
    server.start()
    assert server.url == f"unix://{tmp_path}/d/redis.sock"
    client = redis.Redis.from_url(server.url)
    assert client.config_get("port") == {"port": "0"}
    assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert server.running()


def test_data_survives_stop_and_start(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path)
    server.start()
    redis.Redis.from_url(server.url).set("kept", "yes")
    server.stop()
    server.start()
    assert redis.Redis.from_url(server.url).get("kept") == b"yes"


def test_stop_leaves_no_process_and_may_be_called_twice(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert gone(pid)
    assert not server.running()


def test_stop_ends_a_server_that_does_not_answer(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytq.embedded.STOP_DEADLINE", 0.5)
    server = make(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert gone(pid)


def test_path_too_long_for_a_socket_gets_a_loopback_port(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * SOCKET_PATH_MAX)
    server = make(folder)
    server.start()
    assert server.url == f"redis://127.0.0.1:{server.port}/0"
    client = redis.Redis.from_url(server.url)
    assert client.ping()
    assert client.config_get("bind") == {"bind": "127.0.0.1"}


@pytest.mark.parametrize("name", ["short", "x" * SOCKET_PATH_MAX], ids=["socket", "port"])
@pytest.mark.faults
def test_server_of_a_sigkilled_owner_is_taken_over_with_its_data(make: Make, tmp_path: Path, name: str) -> None:
    server = make(tmp_path / name)
    assert server.program is not None
    owner, pid = run_owner(server.folder, server.program)
    end(owner)
    assert not gone(pid), "the orphan must outlive its owner for this test to mean anything"
    server.start()
    assert server.pid == pid
    assert server.running()
    assert redis.Redis.from_url(server.url).ping()
    server.stop()
    assert gone(pid)


@pytest.mark.faults
def test_orphan_that_does_not_answer_is_replaced(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytq.embedded.START_DEADLINE", 10.0)
    monkeypatch.setattr("sytq.embedded.STOP_DEADLINE", 0.5)
    server = make(tmp_path)
    assert server.program is not None
    owner, pid = run_owner(server.folder, server.program)
    end(owner)
    os.kill(pid, signal.SIGSTOP)
    server.start()
    assert server.pid != pid
    assert gone(pid)
    assert redis.Redis.from_url(server.url).ping()


@pytest.mark.faults
def test_killed_server_restarts_with_its_data(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path)
    server.start()
    redis.Redis.from_url(server.url).set("kept", "yes")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    poll(lambda: not server.running(), message="running() must see the death")
    server.stop()
    server.start()
    assert redis.Redis.from_url(server.url).get("kept") == b"yes"


def test_second_owner_of_a_folder_is_refused_and_harms_nothing(make: Make, tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    first.start()
    with pytest.raises(EmbeddedServerError, match="in use by another running sytq"):
        second.start()
    second.stop()
    assert redis.Redis.from_url(first.url).ping()


def test_stale_pid_file_of_another_process_is_ignored(make: Make, tmp_path: Path) -> None:
    (tmp_path / "redis.pid").write_text(f"{os.getpid()}\n")
    server = make(tmp_path)
    server.start()
    assert server.pid != os.getpid()
    server.stop()  # must not end this process


def test_program_that_cannot_start_is_named(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, program="/bin/false")
    with pytest.raises(EmbeddedServerError, match="/bin/false did not start"):
        server.start()
    assert not server.running()


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "100% sure? #1")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()
