"""P1, P5: upgrade from each previous release and downgrade, under load and at the limits of a host and a provider, with
both releases on the same stores."""

from __future__ import annotations

import http.server
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sytq.ledger.database import open_database, read
from sytq.ledger.migrations import migrate, pending
from sytq.plugins import find
from tests.provider import ScriptedProvider, answers, later
from tests.releases import Process, Release, previous, this, unpack
from tests.servers import poll

pytestmark = pytest.mark.faults
NEWCOMER = Path(__file__).parent / "newcomer_plugins"
LIMIT = 3  # of calls at once, to the target and to the provider


class Row(NamedTuple):
    """The columns of a task that both releases have."""

    id: str
    state: str
    attempts: int
    worker: str | None
    error: str | None


class Target:
    """A receiver of webhooks and callbacks. It refuses the first request to a path that begins with /flaky."""

    def __init__(self) -> None:
        self.arrived: Counter[str] = Counter()
        self.running = self.peak = 0  # requests at this moment, and their maximum; newcomers acquire no permit
        lock = threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                handler.rfile.read(int(handler.headers.get("content-length", 0)))
                with lock:
                    self.arrived[handler.path] += 1
                    first = self.arrived[handler.path] == 1
                    limited = not handler.path.startswith("/newcomer")
                    self.running += limited
                    self.peak = max(self.peak, self.running)
                time.sleep(0.03)
                with lock:
                    self.running -= limited
                handler.send_response(503 if first and handler.path.startswith("/flaky") else 200)
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Fleet:
    """The stores, the processes of both releases, and clients that keep submitting to any running API."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.folder = folder
        self.target, self.provider = Target(), ScriptedProvider()
        self.provider.play(later(0.1, answers()))
        self.settings = {
            "SYTQ_DATABASE__URL": database_url,
            "SYTQ_REDIS__URL": redis_url,
            "SYTQ_API__WORKERS": "1",
            "SYTQ_WORKER__PROCESSES": "1",
            "SYTQ_WORKER__SHUTDOWN_TIMEOUT": "30s",
            "SYTQ_WORKER__RETRY_INTERVAL": "1s",
            # Without a kill nothing waits for this. A worker that stands still beyond its lease may have its tasks sent
            # a second time, which "at least once" allows: here a busy machine must not cause that, as each is counted.
            "SYTQ_WORKER__LIVENESS": "20s",
            "SYTQ_LOGGER__FORMAT": "json",
            "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "SYTQ_PROVIDERS__SCRIPTED__BASE_URL": self.provider.base_url,
            "SYTQ_PROVIDERS__SCRIPTED__API_KEY": "sk-scripted",
            "SYTQ_PROVIDERS__SCRIPTED__MODEL": "valuer-1",
            "SYTQ_PROVIDERS__SCRIPTED__LIMITS": json.dumps({"running": LIMIT, "adaptive": False}),
            "SYTQ_WEBHOOK__HOST__RUNNING": str(LIMIT),
        }
        self.database = open_database(database_url)
        self.processes: list[Process] = []
        self.accepted: dict[str, tuple[str, str]] = {}  # task -> kind and name, and the release that accepted it
        self.refused: list[object] = []
        self._serving: list[Process] = []
        self._busy: Counter[int] = Counter()
        self._pids: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._numbers = itertools.count()
        self._clients = [threading.Thread(target=self._submit_on, daemon=True) for _ in range(3)]

    def start(self, release: Release, what: str) -> Process:
        more = {"SYTQ_PLUGINS__PATHS": json.dumps([str(NEWCOMER)])} if release.name == "this" else {}
        process = Process(release, what, self.settings | more, self.folder)
        self.processes.append(process)
        if what == "worker":
            self._pids |= dict.fromkeys(process.children(), release.name)
        else:
            with self._lock:
                self._serving.append(process)
        return process

    def stop(self, process: Process) -> None:
        """As a deployment does it: an API gets no more requests before it is stopped."""
        with self._lock:
            if process in self._serving:
                self._serving.remove(process)
        poll(lambda: self._busy[process.port] == 0, timeout=60, message="its requests are answered")
        assert process.terminate() == 0, process.text()

    def begin(self) -> None:
        for client in self._clients:
            client.start()

    def _submit_on(self) -> None:
        while not self._ended.wait(0.1):
            number = next(self._numbers)
            with self._lock:
                api = random.choice(self._serving)
                self._busy[api.port] += 1
            kind = ("hook", "prompt", "flaky")[number % 3]
            name = f"/{kind}-{number}"
            if kind == "prompt":
                path, body = "/api/v1/tasks/llm", {"prompt": name, "callback_url": self.target.url + name}
            else:
                path, body = "/api/v1/tasks", {"url": self.target.url + name}
            try:
                status, answer = api.post(path, body)
                if status == 200:
                    self.accepted[answer["task_id"]] = (name, api.release.name)  # type: ignore[index]
                else:
                    self.refused.append((api.release.name, status, answer))
            except (OSError, ValueError) as error:
                self.refused.append((api.release.name, repr(error)))
            with self._lock:
                self._busy[api.port] -= 1

    def newcomer(self, api: Process, name: str) -> str:
        status, answer = api.post("/v2/tasks", {"type": "newcomer", "payload": {"url": self.target.url + name}})
        assert status in (200, 201, 202), answer
        return str(answer["id"])  # type: ignore[index]

    def rows(self) -> dict[str, Row]:
        """By plain SQL, as the models of this release do not fit the tables of the previous one."""

        def work() -> list[Row]:
            return [Row(*row) for row in self.database.execute_sql(f"SELECT {', '.join(Row._fields)} FROM sytq_tasks")]

        return {row.id: row for row in read(self.database, work)}

    def ways(self, new: int) -> Counter[tuple[str, str]]:
        """Of the tasks from the `new`th on: which release accepted and which finished them, and how many."""
        rows = self.rows()
        recent = [(task, by) for task, (_, by) in list(self.accepted.copy().items())[new:]]  # clients add to it
        ended = [(rows[task], by) for task, by in recent if task in rows and rows[task].state == "succeeded"]
        return Counter((by, self._pids.get(str(row.worker).split("-")[-2], "?")) for row, by in ended)

    def wait_for(self, *ways: tuple[str, str]) -> None:
        """Wait until some new tasks have gone each of these ways."""
        new = len(self.accepted)
        poll(
            lambda: all(self.ways(new)[way] >= 5 for way in ways),
            timeout=90,
            interval=0.3,
            message=lambda: f"{ways}, not {self.ways(new)}: {[one.text()[-1500:] for one in self.processes]}",
        )

    def assert_nothing_lost_or_repeated(self) -> None:
        self._ended.set()
        for client in self._clients:
            client.join(60)
        assert self.refused == []

        def unfinished() -> list[tuple[str, Row | None]]:
            rows = self.rows()
            found = [(name, rows.get(task)) for task, (name, _) in self.accepted.items()]
            return [(name, row) for name, row in found if row is None or row.state != "succeeded"]

        poll(lambda: not unfinished(), timeout=90, interval=0.5, message=lambda: unfinished()[:5])
        names = [name for name, _ in self.accepted.values()]
        poll(lambda: len(self.target.arrived.keys() & set(names)) == len(names), timeout=60, message="callbacks arrive")
        times = {name: 2 if name.startswith("/flaky") else 1 for name in names}
        assert {name: self.target.arrived[name] for name in names} == times
        rows = self.rows()
        assert {name: rows[task].attempts for task, (name, _) in self.accepted.items()} == times
        asked = Counter(call.body["messages"][-1]["content"] for call in self.provider.calls)
        assert asked == dict.fromkeys((name for name in names if name.startswith("/prompt")), 1), (
            "each is paid for once"
        )

    def assert_limits_held(self) -> None:
        """Also while workers of both releases count, hand over and reserve the same permits."""
        assert (self.target.peak, self.provider.peak) == (LIMIT, LIMIT)

    def close(self) -> None:
        self._ended.set()
        for process in self.processes:
            process.kill()
        self.database.close_all()
        self.provider.close()
        self.target.close()


@pytest.fixture(scope="session", params=previous(), ids=lambda ref: ref[:8])
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return unpack(request.param, tmp_path_factory.mktemp("previous"), "previous")


@pytest.fixture
def fleet(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Fleet]:
    one = Fleet(tmp_path, database_url, redis_url)
    yield one
    one.close()


def test_p1_upgrade_and_downgrade_lose_nothing_and_keep_limits(fleet: Fleet, before: Release) -> None:
    old, new = before.name, this().name
    before.run(fleet.settings, "db", "migrate")
    plugins = find(()).plugins
    lacking = pending(fleet.database, plugins)
    old_api, old_worker = fleet.start(before, "api"), fleet.start(before, "worker")
    fleet.begin()
    fleet.wait_for((old, old))

    # The tables of this release while only the previous one runs.
    assert migrate(fleet.database, plugins) == lacking
    fleet.wait_for((old, old))

    # Both side by side, each with the other's tasks; a type that only one of them has waits for that one.
    new_worker = fleet.start(this(), "worker")
    new_api = fleet.start(this(), "api")
    newcomers = [fleet.newcomer(new_api, f"/newcomer-{n}") for n in range(3)]
    fleet.wait_for((old, old), (old, new), (new, old), (new, new))

    fleet.stop(old_api)
    fleet.stop(old_worker)
    fleet.wait_for((new, new))
    for n in range(3):
        poll(lambda n=n: fleet.target.arrived[f"/newcomer-{n}"], message="the newcomers ran")

    # Downgrade: the tables stay as they are.
    before.run(fleet.settings, "db", "check")
    old_worker, old_api = fleet.start(before, "worker"), fleet.start(before, "api")
    fleet.stop(new_worker)
    newcomers.append(fleet.newcomer(new_api, "/newcomer-late"))
    fleet.stop(new_api)
    fleet.wait_for((old, old))

    # Tasks of a type unknown to the previous release have waited.
    fleet.start(this(), "worker")
    fleet.assert_nothing_lost_or_repeated()
    fleet.assert_limits_held()
    for task in newcomers:
        poll(lambda task=task: fleet.rows()[task].state == "succeeded", timeout=60, message="the newcomers")
    assert {fleet.target.arrived[f"/newcomer-{name}"] for name in (0, 1, 2, "late")} == {1}
