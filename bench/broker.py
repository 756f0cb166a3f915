"""No-op tasks from a backlog: ours beside Dramatiq's RedisBroker and taskiq's streams, in one run.

    python -m bench.broker [--tasks 20000] [--rounds 3] [--processes 2]

One private Redis with its append-only file on; so many worker processes (8 threads each where tasks run on threads),
from the first finished task to the last; the kinds in turn, medians of the rounds. Ours are rows in MariaDB
(innodb_flush_log_at_trx_commit=1) with the record of every attempt, which is written meanwhile; its second rate ends
when the last is there. The peers keep nothing of a task that has ended. Last, the commands of Redis for one of ours,
from its dispatch until the record of its end has left Redis, as far as it got meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.run import SYTQ, Run, end, envelopes, wait
from sytq.ledger.models import Task
from tests.servers import MySQLServer

#: Tasks a second until the last has ended, and until the last is recorded.
Rates = tuple[float, float]


def measured(
    worker: subprocess.Popen[bytes], left: Callable[[], int], tasks: int, recorded: Callable[[], bool]
) -> Rates:
    try:
        began = wait(lambda: left() < tasks)
        begun = left()
        ended = wait(lambda: left() == 0)
        last = wait(recorded)
    finally:
        end(worker)
    return begun / (ended - began), begun / (last - began)


def dramatiq(run: Run, tasks: int, processes: int) -> Rates:
    from bench import stock

    for _ in range(tasks):
        stock.noop.send()
    return measured(run.worker("bench.stock", processes), stock.left, tasks, lambda: True)


def taskiq(run: Run, tasks: int, processes: int) -> Rates:
    from bench import stream

    asyncio.run(stream.send(tasks))
    return measured(run.start(*stream.COMMAND, str(processes)), stream.left, tasks, lambda: True)


def ours(run: Run, type_name: str, queue: str, tasks: int, processes: int) -> Rates:
    submitter, stream = run.ours.submitter, run.ours.keys.stream(queue, "normal")
    for start in range(0, tasks, 500):
        submitter.submit([submitter.prepare(type_name, {}) for _ in range(min(500, tasks - start))])

    def recorded() -> bool:
        unfinished = Task.select().where(Task.type == type_name, Task.state != "succeeded")
        with run.ours.database.connection_context():
            return not unfinished.exists()

    return measured(run.worker(SYTQ, processes), lambda: run.client.xlen(stream), tasks, recorded)


def commands(run: Run, tasks: int) -> float:
    """Commands of Redis for each no-op without a row, those within scripts included, without what this asks."""

    def count() -> int:
        asked = {"cmdstat_xlen", "cmdstat_info"}
        return sum(entry["calls"] for name, entry in run.client.info("commandstats").items() if name not in asked)

    before, stream = count(), run.ours.keys.stream("abench", "normal")
    run.dispatcher.dispatch(envelopes("anoop", "abench", tasks))
    measured(run.worker(SYTQ), lambda: run.client.xlen(stream), tasks, lambda: True)
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
        run = Run(Path(folder), SYTQ_DATABASE__URL=mysql.create_database("bench"))
        try:
            rounds = [
                (
                    dramatiq(run, given.tasks, given.processes),
                    taskiq(run, given.tasks, given.processes),
                    ours(run, "noop", "bench", given.tasks, given.processes),
                    ours(run, "anoop", "abench", given.tasks, given.processes),
                )
                for _ in range(given.rounds)
            ]
            show(given.tasks, given.processes, rounds)
            print(f"commands of Redis for each of ours: {commands(run, given.tasks):.1f}")
        finally:
            run.close()
            mysql.remove()


def show(tasks: int, processes: int, rounds: list[tuple[Rates, Rates, Rates, Rates]]) -> None:
    stock, stream, threads, loop = (
        tuple(statistics.median(rates) for rates in zip(*kind, strict=True)) for kind in zip(*rounds, strict=True)
    )
    print(f"from a backlog of {tasks:,}, {processes} processes, tasks/s:")
    print(f"  def:       RedisBroker {stock[0]:7,.0f}  ours {threads[0]:7,.0f} ({threads[0] / stock[0]:.2f})", end="")
    print(f"  until recorded {threads[1]:7,.0f} ({threads[1] / stock[0]:.2f})")
    print(f"  async def: taskiq      {stream[0]:7,.0f}  ours {loop[0]:7,.0f} ({loop[0] / stream[0]:.2f})", end="")
    print(f"  until recorded {loop[1]:7,.0f} ({loop[1] / stream[0]:.2f})")


if __name__ == "__main__":
    main()
