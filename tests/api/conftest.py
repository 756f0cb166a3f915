"""The API for the tests of this folder: gunicorn as deployed, on a free port, with stores of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peewee
import pytest

from sytq.ledger.database import open_database
from tests.servers import MySQLServer, RedisServer, free_port, make_tables, poll

REPO = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """gunicorn with our configuration file. `request` sends what a client library can send, `raw` any bytes."""

    def __init__(self, database_url: str, redis_url: str, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sytq-api-"))
        self.port = free_port()
        self.database: peewee.Database = open_database(database_url)
        self.conf = REPO / "etc" / "gunicorn.conf.py"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "SYTQ_DATABASE__URL": database_url,
            "SYTQ_REDIS__URL": redis_url,
            "SYTQ_API__PORT": str(self.port),
            "SYTQ_API__WORKERS": "1",
            "SYTQ_LOGGER__FORMAT": "json",
        } | settings

    def start(self) -> Api:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(self.conf), "sytq.api:create_app()"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        poll(lambda: self.process.poll() is not None or self._answers(), timeout=90, message=self.log)
        assert self.process.poll() is None, self.log()
        return self

    def stop(self) -> int:
        """End it in an orderly way and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def remove(self) -> None:
        """Kill it and its workers, and delete its folder. Harmless twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.database.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def migrated(self) -> Api:
        make_tables(self.database)
        return self

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 90.0,
    ) -> Reply:
        """One request on a connection of its own; a dict or list as body is sent as JSON."""
        headers = dict(headers or {})
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes, timeout: float = 60.0) -> bytes:
        """Send bytes as they are and return everything until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received

    def task(self, task_id: str) -> tuple[str, str, Any]:
        """Type, state and parsed payload of a row."""
        [(type_name, state, payload)] = self.rows(f"SELECT type, state, payload FROM sytq_tasks WHERE id = '{task_id}'")
        return type_name, state, json.loads(payload)

    def rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self.database.connection_context():
            return list(self.database.execute_sql(sql, arguments).fetchall())

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/healthz/live", timeout=2).status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def api(request: pytest.FixtureRequest, folder: Path, redis_server: RedisServer) -> Iterator[Api]:
    """The API on the shared Redis and a database of its own, once per engine and module."""
    if request.param == "mysql":
        server: MySQLServer = request.getfixturevalue("mysql_server")
        name = f"api{os.urandom(6).hex()}"
        url = server.create_database(name)
    else:
        url = f"sqlite:///{folder / 'sytq.db'}"
    with redis_server.client() as client:
        client.flushall()
    served = Api(url, redis_server.url).migrated()
    try:
        yield served.start()
    finally:
        served.remove()
        if request.param == "mysql":
            server.drop_database(name)


@pytest.fixture
def make_api(tmp_path: Path, redis_server: RedisServer) -> Iterator[Any]:
    """Starts APIs of this test alone: make_api(database_url=..., redis_url=..., SYTQ_...=...)."""
    served: list[Api] = []

    def make(database_url: str = "", redis_url: str = "", **settings: str) -> Api:
        url = database_url or f"sqlite:///{tmp_path / 'sytq.db'}"
        one = Api(url, redis_url or redis_server.url, **settings)
        served.append(one)
        return one.migrated().start()

    yield make
    for one in served:
        one.remove()
