"""Our broker beside Dramatiq's RedisBroker in one run, on one private Redis with its append-only file on.

    python -m bench.broker [--tasks 20000] [--rounds 3] [--pickups 10]

Commands of Redis: from the dispatch of a task until the record of its end has left Redis, as far as it got meanwhile.
Throughput: no-op tasks from a backlog, one worker process of 8 threads, from the first finished task to the last; the
three kinds in turn, medians of the rounds.
Pickup: single tasks 3 s apart, from being sent to running on the idle worker. Ours are tasks without a ledger row's
cost on either side of the comparison: the messages are entered straight into Redis, as `actor.send` does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

from sytq import config
from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.embedded import EmbeddedServer
from sytq.ids import new_id
from sytq.runtime import Runtime, build
from tests.tables import make_tables

TYPES = Path(__file__).parent / "types"


class Run:
    """One private Redis, and workers on it."""

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
        self.ours: Runtime = build(config.load(environ=self.environ))
        self.dispatcher = Dispatcher(self.ours.redis, self.ours.keys)
        make_tables(self.ours.database)

    def worker(self, module: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dramatiq", module, "-p1", "-t8"],
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        self.server.stop()


def wait(condition: Callable[[], object], timeout: float = 300.0) -> float:
    """Wait for a condition and return the time at which it held."""
    deadline = time.perf_counter() + timeout
    while not condition():
        if time.perf_counter() > deadline:
            sys.exit("a benchmark did not end in time")
        time.sleep(0.005)
    return time.perf_counter()


def measured(run: Run, module: str, left: Callable[[], int], tasks: int) -> float:
    """Tasks a second from the first finished to the last."""
    worker = run.worker(module)
    try:
        began = wait(lambda: left() < tasks)
        begun = left()
        ended = wait(lambda: left() == 0)
    finally:
        worker.terminate()
        worker.wait()
    return begun / (ended - began)


def envelopes(type_name: str, queue: str, tasks: int, payload: str = "{}") -> list[Envelope]:
    now = int(time.time() * 1000)
    return [Envelope(new_id(), type_name, queue, "normal", payload, now) for _ in range(tasks)]


def stock_backlog(run: Run, tasks: int) -> float:
    os.environ["BENCH_REDIS_URL"] = run.server.url
    from bench import stock

    for _ in range(tasks):
        stock.noop.send()
    return measured(run, "bench.stock", lambda: run.client.hlen("dramatiq:default.msgs"), tasks)


def our_backlog(run: Run, type_name: str, queue: str, tasks: int) -> float:
    run.dispatcher.dispatch(envelopes(type_name, queue, tasks))
    stream = run.ours.keys.stream(queue, "normal")
    return measured(run, "sytq.actors", lambda: run.client.xlen(stream), tasks)


def commands(run: Run) -> int:
    """How many commands Redis has run so far, those within scripts included, without what this program asks."""
    asked = {"cmdstat_xlen", "cmdstat_hlen", "cmdstat_info"}
    return sum(entry["calls"] for name, entry in run.client.info("commandstats").items() if name not in asked)


def pickups(run: Run, module: str, send: Callable[[], object], count: int) -> list[float]:
    run.client.delete("pickups")
    worker = run.worker(module)
    try:
        send()
        wait(lambda: run.client.llen("pickups") == 1)  # it is up; this one is not counted
        for number in range(count):
            time.sleep(3)  # the pause is what is measured: how an idle worker notices a task
            send()
            wait(lambda done=number + 2: run.client.llen("pickups") == done)
    finally:
        worker.terminate()
        worker.wait()
    return [float(value) * 1000 for value in run.client.lrange("pickups", 1, -1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pickups", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        try:
            rates = [
                (
                    stock_backlog(run, arguments.tasks),
                    our_backlog(run, "noop", "bench", arguments.tasks),
                    our_backlog(run, "anoop", "abench", arguments.tasks),
                )
                for _ in range(arguments.rounds)
            ]
            theirs, threads, loop = map(statistics.median, zip(*rates, strict=True))
            print(f"from a backlog of {arguments.tasks}, tasks/s: RedisBroker {theirs:,.0f}")
            print(f"  ours on threads {threads:,.0f} ({threads / theirs:.1f}x), on the event loop {loop:,.0f} ", end="")
            print(f"({loop / theirs:.1f}x)")
            before = commands(run)
            our_backlog(run, "anoop", "abench", arguments.tasks)
            print(f"  commands of Redis for each of ours, {(commands(run) - before) / arguments.tasks:.1f}")
            if not arguments.pickups:
                return
            from bench import stock

            slow = pickups(run, "bench.stock", lambda: stock.pickup.send(time.time()), arguments.pickups)

            def send() -> int:
                return run.dispatcher.dispatch(envelopes("pickup", "bench", 1, f'{{"sent": {time.time()}}}'))

            quick = pickups(run, "sytq.actors", send, arguments.pickups)
            median_slow, median_quick = statistics.median(slow), statistics.median(quick)
            print(f"pickup by an idle worker, ms (median, worst): RedisBroker {median_slow:.1f}, {max(slow):.1f}")
            print(f"  ours {median_quick:.1f}, {max(quick):.1f} ({median_slow / median_quick:.0f}x sooner)")
        finally:
            run.close()


if __name__ == "__main__":
    main()
