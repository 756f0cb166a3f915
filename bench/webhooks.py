"""Webhook deliveries beside a bare aiohttp loop that makes the same calls, in one run, to one sink on this machine.

    python -m bench.webhooks [--tasks 10000]

Deliveries per second from the first to the last arrival at the sink, which is a process of its own, and CPU time per
delivery; the bare loop and our worker are one process each. Ours are signed tasks from a backlog, with a row in the
ledger (SQLite), the host's limiter (`--running` permits, 0: no limit) and the record of every attempt; the bare loop
posts the same body from memory, 100 at once.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from sytq import config
from sytq.embedded import EmbeddedServer
from sytq.runtime import build
from tests.tables import make_tables

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


def ours(folder: Path, url: str, tasks: int, running: int, pipe: Connection) -> float:
    server = EmbeddedServer(folder / "redis")
    server.start()
    environ = os.environ | {
        "SYTQ_REDIS__URL": server.url,
        "SYTQ_DATABASE__URL": f"sqlite:///{folder / 'bench.db'}",
        "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "SYTQ_WEBHOOK__SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "SYTQ_WEBHOOK__HOST__RUNNING": str(running),
        "SYTQ_LOGGER__LEVEL": "error",
        "SYTQ_SCHEDULES__CLEANUP": '{"enabled": false}',
    }
    parts = build(config.load(environ=environ))
    make_tables(parts.database)
    for start in range(0, tasks, 500):
        payload = {"url": url, "body": BODY}
        parts.submitter.submit([parts.submitter.prepare("webhook", payload) for _ in range(min(500, tasks - start))])
    worker = subprocess.Popen([sys.executable, "-m", "dramatiq", "sytq.actors", "-p1", "-t2"], env=environ)
    try:
        return measured(pipe, tasks)
    finally:
        worker.terminate()
        worker.wait(30)
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=100)
    given = parser.parse_args()
    tasks = given.tasks
    pipe, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=sink, args=(other,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{pipe.recv()}/hook"
    loop = multiprocessing.get_context("spawn").Process(target=run_bare, args=(url, tasks))
    before = cpu()
    loop.start()
    rate_bare = measured(pipe, tasks)
    loop.join()
    cpu_bare = (cpu() - before) / tasks
    pipe.send(0)
    pipe.recv()
    with tempfile.TemporaryDirectory() as folder:
        before = cpu()
        rate_ours = ours(Path(folder), url, tasks, given.running, pipe)
        cpu_ours = (cpu() - before) / tasks
    process.terminate()
    print(f"bare aiohttp loop {rate_bare:8,.0f} deliveries/s, {cpu_bare * 1e6:6,.0f} us of CPU each")
    print(
        f"webhook tasks     {rate_ours:8,.0f} deliveries/s, {cpu_ours * 1e6:6,.0f} us of CPU each (Redis not counted)"
    )
    print(f"ratio             {rate_ours / rate_bare:8.2f}")


if __name__ == "__main__":
    main()
