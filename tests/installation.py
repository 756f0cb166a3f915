"""An installation of sytq: stores, real processes (workers, the API), a client of its API, and what its tasks did.

The one way in which tests run real processes:

    def test_something(installation: Installation) -> None:     # fresh: SQLite, the shared Redis, no process yet
        worker = installation.start_worker()                    # a Process: kill(), terminate(), signal(), text()
        installation.start_api()                                # then: request(), get(), post(), raw()
        task = installation.submit("plain", "a")                # a type of tests/trial_plugins, which writes notes
        installation.wait_state(task, "succeeded")
        assert installation.notes()["start a"] == 1

Fixtures (tests/conftest.py):
- `installation`, as above; `make_installation(database_url=..., SYTQ_...=...)` for other stores or settings;
- `running`, for each database engine: the API and a worker run already and are shared by all tests, which spares a test
  their start. `running_on("sqlite")` is one of them;
- `provider` and `receiver`, in the test's own process.

A test of `running` has a journal of its own and finds its tasks by id, name or metadata, as the stores hold those of
other tests. It stops, kills, pauses and reconfigures nothing. A task that has to go on running is held (`hold`), not
given many seconds: what a test holds is released at its end.

A test of one task type takes `sytq.testing`, without processes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from sytq import config
from sytq.ledger.models import MODELS, Task
from sytq.runtime import Runtime, build
from tests.processes import GUNICORN_CONF, ROOT, Process, gunicorn_command, worker_command
from tests.servers import free_port, poll
from tests.tables import make_tables

TRIALS = ROOT / "tests" / "trial_plugins"
#: Settings of an installation with the built-in types and schedules alone.
BUILT_IN: dict[str, str | None] = {"SYTQ_PLUGINS__PATHS": None, "SYTQ_SCHEDULES__CLEANUP__ENABLED": None}
#: Parameters of a fixture that is made for each database engine.
ENGINES = ["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)]


def samples(text: bytes) -> dict[str, float]:
    """The series of a scrape, with their values."""
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text.decode(), re.MULTILINE)}


@dataclass(frozen=True)
class Reply:
    """A response of the API."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Installation:
    """One configuration, seen through its runtime, with the processes that a test starts."""

    gunicorn: Process  # of the API, once it was started

    def __init__(self, folder: Path, database_url: str, redis_url: str, **settings: str | None) -> None:
        """`settings` are environment variables, which replace those below; with None a variable is not set."""
        self.folder = folder
        self.metrics = folder / "metrics"
        self.metrics.mkdir(exist_ok=True)
        self.port = free_port()
        host = settings.get("SYTQ_API__HOST") or ""
        self.address = host if host.startswith("127.") else "127.0.0.1"
        given: dict[str, str | None] = {
            "SYTQ_DATABASE__URL": database_url,
            "SYTQ_REDIS__URL": redis_url,
            "SYTQ_PLUGINS__PATHS": f'["{TRIALS}"]',
            "SYTQ_API__PORT": str(self.port),
            "SYTQ_API__WORKERS": "1",
            "SYTQ_WORKER__SHUTDOWN_TIMEOUT": "2s",
            "SYTQ_LOGGER__FORMAT": "json",
            "PROMETHEUS_MULTIPROC_DIR": str(self.metrics),
            # Its tick every ten minutes would be a task that a test did not submit.
            "SYTQ_SCHEDULES__CLEANUP__ENABLED": "false",
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")}
        self.environ |= {name: value for name, value in given.items() if value is not None}
        self.runtime: Runtime = build(config.load(environ=self.environ))
        self.journal = folder / "journal"
        self.journal.touch()
        self.workers: list[Process] = []
        make_tables(self.runtime.database)

    # -- processes

    def start_worker(self, threads: int = 4, *, fresh: bool = False, **settings: str) -> Process:
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Process(worker_command(threads), self.environ | settings, log, fresh=fresh)
        self.workers.append(worker)
        worker.wait_ready(lambda: "worker started" in worker.text())
        return worker

    def start_api(self, conf: Path = GUNICORN_CONF, *, fresh: bool = False, **settings: str) -> Process:
        """Start gunicorn with the API on `port`; again after its end."""
        # The API is another process group than the worker: it counts in a folder of its own.
        environ = {name: value for name, value in self.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
        self.gunicorn = Process(gunicorn_command(conf), environ | settings, self.folder / "api.log", fresh=fresh)
        self.gunicorn.wait_ready(self._answers)
        return self.gunicorn

    def begin_test(self, journal: Path) -> None:
        """Prepare shared processes for a test: it has a journal of its own."""
        for process in (self.gunicorn, *self.workers):
            assert process.alive, f"an earlier test ended a process that it shares: {process.text()[-2000:]}"
        self.journal = journal
        journal.touch()
        # The last installation that was made has the models.
        self.runtime.database.bind(MODELS)
        for plugin in self.runtime.registry.plugins:
            self.runtime.database.bind(plugin.models)

    def close(self) -> None:
        """Kill the processes and close the stores."""
        processes = [*self.workers, self.gunicorn] if hasattr(self, "gunicorn") else self.workers
        for process in processes:
            process.kill()
        self.runtime.database.close_all()  # type: ignore[attr-defined]
        self.runtime.redis.close()

    # -- its API

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
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def raw(self, data: bytes, timeout: float = 60.0) -> bytes:
        """Send bytes as they are and return everything until the server closes."""
        with socket.create_connection((self.address, self.port), timeout=timeout) as connection:
            connection.sendall(data)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.request("POST", path, {} if body is None else body, headers)

    def get(self, path: str) -> Any:
        """The JSON of a 200 response."""
        reply = self.request("GET", path)
        assert reply.status == 200, reply
        return reply.json

    def post_task(self, type_name: str, name: str = "-", seconds: float = 0.0, **fields: Any) -> str:
        """Submit a task by HTTP and return its id."""
        body = {"type": type_name, "payload": self._payload(name, seconds), **fields}
        reply = self.post("/v2/tasks", body)
        assert reply.status == 202, reply
        return str(reply.json["id"])

    def wait_shown(self, task_id: str, *states: str) -> Any:
        """The task as the API shows it, once it and the ledger have it in one of the states."""
        poll(lambda: self.get(f"/v2/tasks/{task_id}")["state"] in states, message=f"{task_id} is {states}")
        self.wait_state(task_id, *states)
        return self.get(f"/v2/tasks/{task_id}")

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/healthz/live", timeout=2).status == 200
        except OSError:
            return False

    # -- its tasks

    def submit(self, type_name: str, name: str = "-", seconds: float = 0.0, **options: Any) -> str:
        task = self.prepare(type_name, name, seconds, **options)
        self.runtime.submitter.submit([task])
        return task.id

    def prepare(self, type_name: str, name: str = "-", seconds: float = 0.0, **options: Any) -> Any:
        return self.runtime.submitter.prepare(type_name, self._payload(name, seconds), **options)

    def _payload(self, name: str, seconds: float) -> dict[str, Any]:
        return {"journal": str(self.journal), "name": name, "seconds": seconds}

    def hold(self, *names: str) -> None:
        """Keep tasks of these names running until `release` (only test types that check for it)."""
        for name in names:
            Path(f"{self.journal}.hold-{name}").touch()

    def release(self, *names: str) -> None:
        for name in names:
            Path(f"{self.journal}.hold-{name}").unlink()

    def rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """What a statement returns."""
        database = self.runtime.database
        with database.connection_context():
            return list(database.execute_sql(sql, arguments).fetchall())

    def stored(self, task_id: str) -> tuple[str, str, Any]:
        """Type, state and parsed payload of a row."""
        [(type_name, state, payload)] = self.rows(f"SELECT type, state, payload FROM sytq_tasks WHERE id = '{task_id}'")
        return type_name, state, json.loads(payload)

    def row(self, task_id: str) -> Task:
        row = self.runtime.ledger.get(task_id)
        assert row is not None, f"task {task_id} has no row"
        return row

    def wait_state(self, task_id: str, *states: str, timeout: float = 60) -> Task:
        poll(
            lambda: self.row(task_id).state in states,
            timeout=timeout,
            message=lambda: f"{task_id} becomes {states}: it is {self.row(task_id).__data__}",
        )
        return self.row(task_id)

    # -- what they did

    def counted(self) -> dict[str, float]:
        """The metrics of the workers, by series."""
        return samples(generate_latest(MultiProcessCollector(None, str(self.metrics))))

    def notes(self) -> Counter[str]:
        """How often the test tasks wrote each "word name"."""
        return Counter(" ".join(line.split()[:2]) for line in self.journal.read_text().splitlines())

    def moments(self, note: str) -> list[float]:
        """When the note was written, by the clock of its writer (time.time())."""
        lines = (line.split() for line in self.journal.read_text().splitlines())
        return [float(at) for word, name, at in lines if f"{word} {name}" == note]

    def wait_note(self, note: str, times: int = 1, timeout: float = 60) -> None:
        poll(lambda: self.notes()[note] >= times, timeout=timeout, message=f"'{note}' is written {times} times")

    def assert_redis_forgets(self) -> None:
        """Nothing is left of finished tasks: no message, no pending entry, no entry in the state index."""
        redis, keys = self.runtime.redis, self.runtime.keys
        streams = [stream for declared in self.runtime.registry for stream in keys.streams(declared.queue)]
        poll(lambda: sum(redis.ask("XLEN", stream) for stream in streams) == 0, message="the streams empty")
        poll(lambda: redis.ask("HLEN", keys.live) == 0, message="the state index empties")
