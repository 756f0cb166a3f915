"""A whole service on loopback that can be broken: stores, an API, two groups of workers, a provider and a receiver.

The API and each group have a network of their own (a proxy to Redis, one to the database), and are started again one
second after their end, as systemd does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.storm.events import Events
from tests.installation import Installation
from tests.processes import ROOT, Process, gunicorn_command
from tests.provider import ScriptedProvider, Stage, answers, refuses
from tests.proxy import Proxy
from tests.receiver import Receiver
from tests.servers import MySQLServer, RedisServer, poll

LEASE, LIMIT, GROUPS = 4.0, 8, 2
RESTART_SECONDS = 1.0
SECRET = "whsec_" + "c3l0cS10ZXN0cy1zaWduaW5nLXNlY3JldC0="


class Member:
    """The API or a group of workers, on its own network."""

    def __init__(self, name: str, command: list[str], service: Service, **settings: str) -> None:
        self.name, self._command = name, command
        self.redis, self.mysql = Proxy(service.redis.port), Proxy(service.mysql.port)
        self._environ = service.installation.environ | settings
        self._environ["SYTQ_REDIS__URL"] = self.redis.url
        self._environ["SYTQ_DATABASE__URL"] = service.database_url(self.mysql.port)
        self._log = service.folder / f"{name}.log"
        self.starts = 0
        self._start()

    def _start(self) -> None:
        self.starts += 1
        self.process = Process(self._command, self._environ, self._log, fresh=True)

    def keep_running(self) -> None:
        if not self.process.alive:
            time.sleep(RESTART_SECONDS)
            self._start()

    def pids(self) -> list[int]:
        """The processes of it that run tasks or serve requests."""
        return sorted(pid for pid in _descendants(self.process.pid) if _threads(pid) > 3)

    def kill(self) -> None:
        """End it with all its processes."""
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            send(pid, signal.SIGKILL)
        self.process.wait(60)

    def text(self) -> str:
        return self.process.text()


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [each for child in children for each in _descendants(child)]


def _threads(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0


@dataclass
class Call:
    """A call at the provider; `answered` is None when it was refused or its caller went away."""

    row: int
    group: str
    began: float
    answered: float | None = None


@dataclass
class Provider:
    """Answers valuations after 0.2 to 4 s, one in thirty with 503, and counts them."""

    random: random.Random
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    above: list[tuple[float, int]] = field(default_factory=list)  # when there were more calls than LIMIT

    async def answer(self, stage: Stage) -> None:
        row = int(stage.asked.body["messages"][-1]["content"].split()[-1])
        call = Call(row, stage.asked.path.split("/")[1], time.time())
        self.calls.append(call)
        self.running += 1
        if self.running > LIMIT:
            self.above.append((call.began, self.running))
        gone = asyncio.ensure_future(stage.until_gone())
        try:
            if self.random.random() < 1 / 30:
                return await refuses(503)(stage)
            await asyncio.wait([gone], timeout=self.random.uniform(0.2, 4))
            if gone.done():
                raise ConnectionResetError
            await answers(f"Row {row} is worth 420 thousand.")(stage)
            call.answered = time.time()
        finally:
            self.running -= 1
            if not gone.cancel():
                gone.exception()
            await asyncio.wait([gone])


class Service:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.events = Events()
        self.redis, self.mysql = RedisServer(), MySQLServer()
        self.redis.start()
        self.mysql.start()
        self.mysql.create_database("sytq")
        self.mysql.execute("CREATE USER plain@'127.0.0.1'")  # root may write to a read-only server
        self.mysql.execute("CREATE USER plain@localhost")
        for host in ("127.0.0.1", "localhost"):
            self.mysql.execute(f"GRANT ALL ON sytq.* TO plain@'{host}'")
        self.receiver = Receiver(*random.Random(seed).choices([200, 503], [9, 1], k=20_000), 200)
        self.provider = Provider(random.Random(seed))
        self._scripted = ScriptedProvider()
        self._scripted.play(self.provider.answer)
        self.installation = Installation(
            folder,
            self.database_url(self.mysql.port),
            self.redis.url,
            PYTHONPATH=os.environ.get("PYTHONPATH", str(ROOT)),
            RUNTIME_DIRECTORY=str(folder),
            SYTQ_WORKER__PROCESSES="2",
            SYTQ_WORKER__SHUTDOWN_TIMEOUT="5s",
            SYTQ_WORKER__LIVENESS=f"{LEASE}s",
            SYTQ_PROVIDERS__SCRIPTED__MODEL="m",
            SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self._base_url("none"),
            SYTQ_PROVIDERS__SCRIPTED__LIMITS=json.dumps({"running": LIMIT}),
            SYTQ_WEBHOOK__SECRET=SECRET,
            SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
            SYTQ_SCHEDULES__TICKING=json.dumps(
                {"type": "gentle", "every": "3s", "payload": {"journal": os.devnull, "name": "tick"}}
            ),
        )
        self.api = Member("api", gunicorn_command(), self)
        self.groups = [
            Member(name, ["sytq.cli", "worker"], self, SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self._base_url(name))
            for name in (f"group-{n}" for n in range(GROUPS))
        ]
        self.members = [self.api, *self.groups]
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep_running, daemon=True)
        self._keeper.start()
        self.wait_ready()

    def _base_url(self, group: str) -> str:
        return self._scripted.base_url.replace("/v1", f"/{group}/v1")

    def database_url(self, port: int) -> str:
        return f"mysql://plain@127.0.0.1:{port}/sytq?charset=utf8mb4"

    def wait_ready(self) -> None:
        poll(lambda: all("worker started" in group.text() for group in self.groups), timeout=90)
        poll(self.installation._answers, timeout=90)

    def heal(self) -> None:
        """End every fault that may still be there."""
        for server in (self.redis, self.mysql):
            if server.running:
                server.resume()
            server.start()
        self.redis.client().config_set("maxmemory", 0)
        self.mysql.execute("SET GLOBAL read_only = OFF")
        for member in self.members:
            member.redis.heal()
            member.mysql.heal()

    def _keep_running(self) -> None:
        while not self._closed.wait(0.1):
            for member in self.members:
                member.keep_running()

    def logs(self) -> dict[str, str]:
        return {member.name: member.text() for member in self.members}

    def close(self) -> None:
        self._closed.set()
        self._keeper.join()
        for member in self.members:
            member.kill()
            member.redis.close()
            member.mysql.close()
        self.installation.close()
        self._scripted.close()
        self.receiver.close()
        self.redis.remove()
        self.mysql.remove()
