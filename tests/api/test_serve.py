"""`sytq api` and `sytq worker`: they become gunicorn and dramatiq once the configuration is usable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sytq.ledger.database import open_database
from tests.servers import RedisServer, free_port, poll
from tests.tables import make_tables
from tests.terminal import sytq

RUN = "from sytq.cli import main; main()"


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}",
    } | settings


@pytest.mark.parametrize("command", ["api", "worker"])
def test_an_unusable_configuration_is_one_message_and_exit_2(command: str, tmp_path: Path) -> None:
    for settings, named in (
        ("api: {port: 99999}", "api.port"),
        ("redis: {url: 'redis://h/0?socket_timeout=x'}", "redis.url"),
    ):
        (tmp_path / "sytq.yaml").write_text(settings)
        done = sytq(command, "--file", str(tmp_path / "sytq.yaml"), environ=environment(tmp_path), cwd=tmp_path)
        assert done.returncode == 2
        assert named in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_gunicorn_reports_invalid_configuration_without_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "python:sytq.api.gunicorn_conf", "sytq.api:create_app()"],
        env=environment(tmp_path, SYTQ_API__PORT="99999"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "api.port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_without_tables_names_the_migrate_command(tmp_path: Path) -> None:
    done = sytq("worker", environ=environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("the database lacks 0001_ledger")
    assert done.stderr.endswith("run `sytq db migrate`\n")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("api", "-m gunicorn -c python:sytq.api.gunicorn_conf sytq.api:create_app()"),
        (
            "worker",
            "-m sytq.worker.process sytq.actors -p 1 -t 3 --worker-shutdown-timeout 7500 --worker-fork-timeout 5000",
        ),
    ],
)
def test_the_command_replaces_itself_with_the_server(
    command: str, expected: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    settings = {
        "SYTQ_REDIS__URL": redis_server.url,
        "SYTQ_REDIS__PREFIX": f"serve-{command}",
        "SYTQ_API__PORT": str(free_port()),
        "SYTQ_API__WORKERS": "1",
        "SYTQ_WORKER__PROCESSES": "1",
        "SYTQ_WORKER__THREADS": "3",
        "SYTQ_WORKER__SHUTDOWN_TIMEOUT": "7.5s",
    }
    make_tables(open_database(environment(tmp_path)["SYTQ_DATABASE__URL"]))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, command],
            env=environment(tmp_path, **settings),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    ready = {"api": "server listening on", "worker": "booting up"}[command]
    try:
        poll(lambda: ready in (tmp_path / "log").read_text(), message=(tmp_path / "log").read_text)
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(process.pid)], capture_output=True, text=True, check=True
        )
        assert expected in shown.stdout
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
