"""One private Redis, with its append-only file on, and workers on it: what the benchmarks run on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis

from sytq import config
from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.embedded import EmbeddedServer
from sytq.ids import new_id
from sytq.runtime import Runtime, build
from tests.tables import make_tables

TYPES = Path(__file__).parent / "types"
SYTQ = "sytq.actors"


class Run:
    """The ledger is SQLite unless `settings` name a database. They are variables of the environment."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.server = EmbeddedServer(folder / "redis")
        self.server.start()
        self.client = redis.Redis.from_url(self.server.url)
        self.environ = os.environ | {
            "BENCH_REDIS_URL": self.server.url,
            "SYTQ_REDIS__URL": self.server.url,
            "SYTQ_DATABASE__URL": f"sqlite:///{folder / 'bench.db'}",
            "SYTQ_PLUGINS__PATHS": f'["{TYPES}"]',
            "SYTQ_LOGGER__LEVEL": "warning",
            "SYTQ_SCHEDULES__CLEANUP": '{"enabled": false}',
            **settings,
        }
        os.environ["BENCH_REDIS_URL"] = self.server.url  # for the peers' modules, which read it when imported
        self.ours: Runtime = build(config.load(environ=self.environ))
        self.dispatcher = Dispatcher(self.ours.redis, self.ours.keys)
        make_tables(self.ours.database)

    def worker(self, module: str, processes: int = 1) -> subprocess.Popen[bytes]:
        return self.start("dramatiq", module, f"-p{processes}", "-t8")

    def start(self, *module_and_arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *module_and_arguments],
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        self.ours.database.close_all()
        self.server.stop()


def cpu_seconds(master: int, servers: Sequence[int]) -> list[float]:
    """What the processes below a master have used so far, then each server (-1 is none)."""
    ticks = dict.fromkeys((master, *servers), 0)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            counted = pid if pid in servers else int(fields[1])
            if counted in ticks:
                ticks[counted] += int(fields[11]) + int(fields[12])
    return [count / os.sysconf("SC_CLK_TCK") for count in ticks.values()]


def wait(condition: Callable[[], object], pause: float = 0.005) -> float:
    """Wait for a condition, looking so many seconds apart, and return the time at which it held."""
    deadline = time.perf_counter() + 300.0
    while not condition():
        if time.perf_counter() > deadline:
            sys.exit("a benchmark did not end in time")
        time.sleep(pause)
    return time.perf_counter()


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def envelopes(type_name: str, queue: str, tasks: int, payload: str = "{}") -> list[Envelope]:
    now = int(time.time() * 1000)
    return [Envelope(new_id(), type_name, queue, "normal", payload, now) for _ in range(tasks)]
