"""No-op tasks from a backlog: ours beside Dramatiq's RedisBroker and taskiq's streams, in one run.

    python -m bench.broker [--tasks 20000] [--rounds 3] [--processes 2]

One private Redis with its append-only file on; so many worker processes (8 threads each where tasks run on threads),
from the first finished task to the last; the kinds in turn, medians of the rounds. Sent one by one, a hundred at once
(taskiq), five hundred in a call (ours): ours are rows in MariaDB (innodb_flush_log_at_trx_commit=1) with the record of
every attempt, which is written meanwhile; its second rate ends when the last is there. The peers keep nothing of a
task that has ended. Last, the commands of Redis for one of ours, from its dispatch until the record of its end has
left Redis, as far as it got meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.run import SYTQ, Run, cpu_seconds, end, envelopes, wait
from sytq.ledger.models import Task
from tests.servers import MySQLServer


@dataclass(frozen=True)
class Figures:
    """Tasks a second as they are sent, until the last has ended, and until it is recorded; until then the CPU of a
    task in us, of the workers, Redis and MariaDB."""

    sent: float
    rate: float
    recorded: float
    cpu: tuple[float, ...]


class Bench(Run):
    def __init__(self, folder: Path, mysql: MySQLServer, processes: int) -> None:
        super().__init__(folder, SYTQ_DATABASE__URL=mysql.create_database("bench"))
        self.processes = processes
        self._servers = self.client.info("server")["process_id"], mysql.pid

    def measured(
        self,
        sending: float,
        worker: subprocess.Popen[bytes],
        left: Callable[[], int],
        tasks: int,
        recorded: Callable[[], bool] = lambda: True,
    ) -> Figures:
        try:
            began = wait(lambda: left() < tasks)
            before, begun = cpu_seconds(worker.pid, self._servers), left()
            ended = wait(lambda: left() == 0)
            last = wait(recorded, pause=0.1)  # it asks the database that is measured
            used = zip(before, cpu_seconds(worker.pid, self._servers), strict=True)
        finally:
            end(worker)
        cpu = tuple((after - earlier) / begun * 1e6 for earlier, after in used)
        return Figures(tasks / sending, begun / (ended - began), begun / (last - began), cpu)


def dramatiq(run: Bench, tasks: int) -> Figures:
    from bench import peer_dramatiq

    began = time.perf_counter()
    for _ in range(tasks):
        peer_dramatiq.noop.send()
    sending = time.perf_counter() - began
    return run.measured(sending, run.worker("bench.peer_dramatiq", run.processes), peer_dramatiq.left, tasks)


def taskiq(run: Bench, tasks: int) -> Figures:
    from bench import peer_taskiq

    began = time.perf_counter()
    asyncio.run(peer_taskiq.send(tasks))
    sending = time.perf_counter() - began
    return run.measured(sending, run.start(*peer_taskiq.COMMAND, str(run.processes)), peer_taskiq.left, tasks)


def ours(run: Bench, type_name: str, queue: str, tasks: int) -> Figures:
    submitter, stream = run.ours.submitter, run.ours.keys.stream(queue, "normal")
    began = time.perf_counter()
    for start in range(0, tasks, 500):
        submitter.submit([submitter.prepare(type_name, {}) for _ in range(min(500, tasks - start))])
    sending = time.perf_counter() - began

    def recorded() -> bool:
        unfinished = Task.select().where(Task.type == type_name, Task.state != "succeeded")
        with run.ours.database.connection_context():
            return not unfinished.exists()

    return run.measured(sending, run.worker(SYTQ, run.processes), lambda: run.client.xlen(stream), tasks, recorded)


def commands(run: Bench, tasks: int) -> float:
    """Commands of Redis for each no-op without a row, those within scripts included, without what this asks."""

    def count() -> int:
        asked = {"cmdstat_xlen", "cmdstat_info"}
        return sum(entry["calls"] for name, entry in run.client.info("commandstats").items() if name not in asked)

    before, stream = count(), run.ours.keys.stream("abench", "normal")
    run.dispatcher.dispatch(envelopes("anoop", "abench", tasks))
    run.measured(1.0, run.worker(SYTQ), lambda: run.client.xlen(stream), tasks)
    return (count() - before) / tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    mysql = MySQLServer(options=())
    mysql.start()
    mysql.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    with tempfile.TemporaryDirectory() as folder:
        run = Bench(Path(folder), mysql, given.processes)
        try:
            rounds = [
                (
                    dramatiq(run, given.tasks),
                    taskiq(run, given.tasks),
                    ours(run, "noop", "bench", given.tasks),
                    ours(run, "anoop", "abench", given.tasks),
                )
                for _ in range(given.rounds)
            ]
            show(given.tasks, given.processes, rounds)
            print(f"commands of Redis for each of ours: {commands(run, given.tasks):.1f}")
        finally:
            run.close()
            mysql.remove()


def show(tasks: int, processes: int, rounds: list[tuple[Figures, ...]]) -> None:
    print(f"no-ops from a backlog of {tasks:,}, {processes} processes, beside the peer of the kind")
    print(
        f"{'':22} {'sent/s':>8} {'':6} {'tasks/s':>8} {'':6} {'recorded':>8} {'':6} CPU us of workers, Redis, MariaDB"
    )
    kinds = ("def, RedisBroker", "async def, taskiq", "def, ours", "async def, ours")
    peers: list[list[float]] = []
    for kind, figures in zip(kinds, zip(*rounds, strict=True), strict=True):
        rates = [statistics.median(getattr(one, name) for one in figures) for name in ("sent", "rate", "recorded")]
        cpu = (statistics.median(part) for part in zip(*(one.cpu for one in figures), strict=True))
        peers.append(rates)
        beside = zip(rates, peers[len(peers) - 3 if len(peers) > 2 else -1], strict=True)
        print(f"{kind:22}", *(f"{rate:8,.0f} {rate / peer:6.2f}" for rate, peer in beside), end=" ")
        print(*(f"{us:6.0f}" for us in cpu))


if __name__ == "__main__":
    main()
