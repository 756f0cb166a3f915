"""A sytq installation for one test: a ledger, the queue, real worker processes, and assertions about their work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from sytq import config
from sytq.ledger.models import Task
from sytq.runtime import Runtime, build
from tests.servers import make_tables, poll

TRIALS = Path(__file__).parent / "trial_plugins"


def samples(text: bytes) -> dict[str, float]:
    """The series of a scrape, with their values."""
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text.decode(), re.MULTILINE)}


class WorkerProcess:
    """A real `dramatiq sytq.actors`, in a process group of its own."""

    def __init__(self, environ: dict[str, str], log: Path, threads: int) -> None:
        self.log = log
        self._process = subprocess.Popen(
            # Dramatiq's master supervises its workers only after all have booted or after this timeout; a worker that
            # its first task kills never reports its boot.
            [
                *(sys.executable, "-m", "dramatiq", "sytq.actors", "-p1", f"-t{threads}"),
                *("--worker-fork-timeout=1000", "--worker-shutdown-timeout=2000"),
            ],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_ready(self) -> WorkerProcess:
        poll(lambda: "worker started" in self.text() or not self.alive, timeout=90, message="the worker starts")
        assert "worker started" in self.text(), self.text()
        return self

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Process id of the master."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to master and workers."""
        os.killpg(self._process.pid, number)

    def signal_master(self, number: signal.Signals) -> None:
        """Send a signal to the master alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to master and workers at once."""
        if self.alive:
            self.signal(signal.SIGKILL)
        self._process.wait(40)

    def terminate(self) -> int:
        """SIGTERM to the master alone, as systemd's KillMode=mixed does; wait for the end and return its code."""
        self._process.terminate()
        return self.wait(60)

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)


class Installation:
    """One configuration, seen through its runtime, with the workers that a test starts."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, **settings: str) -> None:
        self.folder = folder
        self.metrics = folder / "metrics"
        self.metrics.mkdir(exist_ok=True)
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")} | {
            "SYTQ_DATABASE__URL": database_url,
            "SYTQ_REDIS__URL": redis_url,
            "SYTQ_PLUGINS__PATHS": f'["{TRIALS}"]',
            "SYTQ_WORKER__SHUTDOWN_TIMEOUT": "2s",
            "SYTQ_LOGGER__FORMAT": "json",
            "PROMETHEUS_MULTIPROC_DIR": str(self.metrics),
            # Its tick every ten minutes would be a task that a test did not submit.
            "SYTQ_SCHEDULES__CLEANUP__ENABLED": "false",
            "PYTHONPATH": str(Path(__file__).parent.parent),
            **settings,
        }
        self.runtime: Runtime = build(config.load(environ=self.environ))
        self.journal = folder / "journal"
        self.journal.touch()
        self._workers: list[WorkerProcess] = []
        make_tables(self.runtime.database)

    def start_worker(self, threads: int = 4, **settings: str) -> WorkerProcess:
        log = self.folder / f"worker-{len(self._workers)}.log"
        worker = WorkerProcess(self.environ | settings, log, threads)
        self._workers.append(worker)
        return worker.wait_ready()

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.runtime.database.close_all()
        self.runtime.redis.close()

    def submit(self, type_name: str, name: str = "-", seconds: float = 0.0, **options: Any) -> str:
        task = self.prepare(type_name, name, seconds, **options)
        self.runtime.submitter.submit([task])
        return task.id

    def prepare(self, type_name: str, name: str = "-", seconds: float = 0.0, **options: Any) -> Any:
        payload = {"journal": str(self.journal), "name": name, "seconds": seconds}
        return self.runtime.submitter.prepare(type_name, payload, **options)

    def hold(self, *names: str) -> None:
        """Keep tasks of these names running until `release` (only test types that check for it)."""
        for name in names:
            Path(f"{self.journal}.hold-{name}").touch()

    def release(self, *names: str) -> None:
        for name in names:
            Path(f"{self.journal}.hold-{name}").unlink()

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
