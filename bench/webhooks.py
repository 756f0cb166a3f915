"""Webhook deliveries beside a bare aiohttp loop that makes the same calls, in one run, to one sink on this machine.

    python -m bench.webhooks [--tasks 10000] [--running 100] [--rounds 3]

Deliveries per second from the first to the last arrival at the sink, which is a process of its own, and CPU time per
delivery; the bare loop and our worker are one process each. Ours are signed tasks from a backlog, with a row in the
ledger (SQLite) and the record of every attempt, once without a limit for the host and once with `--running` permits of
its limiter; the bare loop posts the same body from memory, 100 at once. The three in turn, medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from bench.run import Run

AT_ONCE = 100
BODY = '{"type": "bench", "data": "' + "x" * 500 + '"}'


class Sink(asyncio.Protocol):
    """Answers every request with 200 and notes when; requests are small enough to arrive whole."""

    count = 0
    first = last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0 and len(self.buffer) >= end + 4 + len(BODY):
            self.buffer = self.buffer[end + 4 + len(BODY) :]
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            Sink.last = time.monotonic()
            Sink.first = Sink.first or Sink.last
            Sink.count += 1


def sink(pipe: Connection) -> None:
    """Tell the port, then the numbers whenever asked; asked for 0, begin anew."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Sink, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        while True:
            if await loop.run_in_executor(None, pipe.recv) == 0:
                Sink.count, Sink.first = 0, 0.0
            pipe.send((Sink.count, Sink.first, Sink.last))

    asyncio.run(serve())


def measured(pipe: Connection, tasks: int) -> float:
    """Deliveries per second, once all are there."""
    while True:
        time.sleep(0.05)
        pipe.send(1)
        count, first, last = pipe.recv()
        if count >= tasks:
            return float(count / (last - first))


async def bare(url: str, tasks: int) -> None:
    left = iter(range(tasks))

    async def post(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(url, data=BODY.encode()) as response:
                await response.read()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(post(session) for _ in range(AT_ONCE)))


def run_bare(url: str, tasks: int) -> None:
    asyncio.run(bare(url, tasks))


def cpu() -> float:
    """Seconds of the processes that have ended; starting an interpreter is in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(folder: Path, url: str, tasks: int, running: int, pipe: Connection) -> tuple[float, float]:
    """Deliveries per second, and the seconds of CPU of the worker's processes."""
    run = Run(
        folder,
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
        SYTQ_WEBHOOK__SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        SYTQ_WEBHOOK__HOST__RUNNING=str(running),
    )
    for start in range(0, tasks, 500):
        payload = {"url": url, "body": BODY}
        submitter = run.ours.submitter
        submitter.submit([submitter.prepare("webhook", payload) for _ in range(min(500, tasks - start))])
    before, worker = cpu(), run.worker("sytq.actors")
    try:
        rate = measured(pipe, tasks)
    finally:
        worker.terminate()
        worker.wait(30)
        used = cpu() - before  # Redis ends after this
        run.close()
    return rate, used


def bare_beside_ours(url: str, tasks: int, running: int, pipe: Connection) -> list[tuple[float, float]]:
    """One round: deliveries per second and seconds of CPU for each, of the bare loop, without and with the limit."""

    def loop() -> tuple[float, float]:
        before = cpu()
        process = multiprocessing.get_context("spawn").Process(target=run_bare, args=(url, tasks))
        process.start()
        rate = measured(pipe, tasks)
        process.join()
        return rate, cpu() - before

    def worker(running: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            return ours(Path(folder), url, tasks, running, pipe)

    found = []
    for deliver in (loop, partial(worker, 0), partial(worker, running)):
        pipe.send(0)
        pipe.recv()
        rate, used = deliver()
        found.append((rate, used / tasks))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pipe, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=sink, args=(other,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{pipe.recv()}/hook"
    rounds = [bare_beside_ours(url, given.tasks, given.running, pipe) for _ in range(given.rounds)]
    process.terminate()
    kinds = (
        "bare aiohttp loop",
        "webhook tasks, no limit for the host",
        f"webhook tasks, at most {given.running} at once",
    )
    rates = [statistics.median(one[n][0] for one in rounds) for n in range(3)]
    for n, kind in enumerate(kinds):
        seconds = statistics.median(one[n][1] for one in rounds)
        print(
            f"{kind:38} {rates[n]:8,.0f} deliveries/s ({rates[n] / rates[0]:.2f}), {seconds * 1e6:6,.0f} us of CPU each"
        )
    print(f"with the limit beside without: {rates[2] / rates[1]:.2f}; the CPU of Redis is not counted")


if __name__ == "__main__":
    main()
