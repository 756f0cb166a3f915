"""Fewer open files than clients: some are refused with 503, probes are answered, and the end is in order."""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.processes import gunicorn_command
from tests.servers import poll

HARD = 256  # of which half are for connections
LOG = "api.log"


@pytest.fixture
def short_of_files(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    on = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url)
    with (tmp_path / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *gunicorn_command()],
            env=on.environ,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, HARD)),
        )
    try:
        poll(on._answers)
        yield on
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        on.close()


def test_more_clients_than_open_files_get_503_and_probes_get_answers(short_of_files: Installation) -> None:
    on = short_of_files
    task_id = on.post_task("plain")
    ask = f"GET /v2/tasks/{task_id} HTTP/1.1\r\nHost: x\r\nPrefer: wait=60\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", on.port), timeout=30)) for _ in range(300)
        ]
        for client in clients:
            with contextlib.suppress(ConnectionError):  # refused at once, before it asked
                client.sendall(ask)

        def answered() -> list[socket.socket]:
            return select.select(clients, [], [], 0)[0]

        # Two thirds of 128 connections wait; beyond them the state is told at once, and beyond 128 nothing.
        poll(lambda: len(answered()) >= 300 - 85, message=lambda: f"{len(answered())} answered\n{log(on)}")
        answers = []
        for client in answered():
            with contextlib.suppress(ConnectionError):
                answers.append(client.recv(12))
        assert set(answers) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert answers.count(b"HTTP/1.1 503") > 50
        for path in ("/healthz/live", "/healthz/ready", "/health", "/metrics"):
            assert on.request("GET", path, timeout=10).status == 200
        assert len(answers) < 300, "the others wait"
        lines = log(on).splitlines()
        assert any("open files permit 128 connections of 3000" in line for line in lines)
        assert sum("are refused" in line for line in lines) == 1
        assert len([line for line in lines if "peewee.migrations" not in line]) < 20, "no line for each client"


def log(on: Installation) -> str:
    return (on.folder / LOG).read_text()
