"""`sytq api` and `sytq worker`: gunicorn and worker processes run once the configuration is usable."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
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


def test_api_replaces_itself_with_gunicorn(tmp_path: Path, redis_server: RedisServer) -> None:
    settings = {
        "SYTQ_REDIS__URL": redis_server.url,
        "SYTQ_REDIS__PREFIX": "serve-api",
        "SYTQ_API__PORT": str(free_port()),
        "SYTQ_API__WORKERS": "1",
    }
    make_tables(open_database(environment(tmp_path)["SYTQ_DATABASE__URL"]))
    with started("api", tmp_path, settings) as process:
        poll(lambda: "server listening on" in log(tmp_path), message=lambda: log(tmp_path))
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(process.pid)], capture_output=True, text=True, check=True
        )
        assert "-m gunicorn -c python:sytq.api.gunicorn_conf sytq.api:create_app()" in shown.stdout


def test_a_sighup_to_the_worker_command_reads_the_configuration_again(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    (tmp_path / "sytq.yaml").write_text("worker: {processes: 1, shutdown_timeout: 1s}")
    make_tables(open_database(environment(tmp_path)["SYTQ_DATABASE__URL"]))
    settings = {
        "SYTQ_CONFIG": str(tmp_path / "sytq.yaml"),
        "SYTQ_REDIS__URL": redis_server.url,
        "SYTQ_REDIS__PREFIX": "serve-worker",
    }
    with started("worker", tmp_path, settings) as process:
        poll(lambda: log(tmp_path).count("worker started") == 1, message=lambda: log(tmp_path))
        (tmp_path / "sytq.yaml").write_text("worker: {processes: 2, shutdown_timeout: 1s}")
        process.send_signal(signal.SIGHUP)
        poll(lambda: log(tmp_path).count("worker started") == 3, message=lambda: log(tmp_path))


def test_an_installed_parser_in_c_reads_the_requests(tmp_path: Path, redis_server: RedisServer) -> None:
    (tmp_path / "gunicorn_h1c.py").write_text(NOTED_PARSER)
    make_tables(open_database(environment(tmp_path)["SYTQ_DATABASE__URL"]))
    settings = {"SYTQ_REDIS__URL": redis_server.url, "SYTQ_API__PORT": str(free_port()), "SYTQ_API__WORKERS": "1"}
    settings["PYTHONPATH"] = str(tmp_path)
    with started("api", tmp_path, settings):
        health = f"http://127.0.0.1:{settings['SYTQ_API__PORT']}/healthz/startup"
        poll(lambda: answers(health), message=lambda: log(tmp_path))
    assert "read by gunicorn_h1c" in log(tmp_path)


NOTED_PARSER = """
import sys
from gunicorn.asgi.parser import LimitRequestHeaders, LimitRequestLine, ParseError, PythonProtocol

class H1CProtocol(PythonProtocol):
    def feed(self, data):
        print("read by gunicorn_h1c", file=sys.stderr)
        return super().feed(data)
"""


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as response:
        return bool(response.status == 200)
    return False


@contextlib.contextmanager
def started(command: str, tmp_path: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command of sytq in a process of its own, writing to `log`; SIGTERM ends it at the end."""
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, command],
            env=environment(tmp_path, **settings),
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
        process.wait()


def log(tmp_path: Path) -> str:
    return (tmp_path / "log").read_text()
