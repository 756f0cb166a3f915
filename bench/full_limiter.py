"""The start of other webhook deliveries while thousands arrive for a host whose limiter is full, and while they wait.

    python -m bench.full_limiter [--arriving 20000] [--waiting 100000] [--rounds 3]

One worker process, SQLite, tasks of one queue and priority. A delivery to a second host is submitted every 50 ms: with
nothing else to do, while `--arriving` tasks are submitted by another process for a host that answers no call and takes
50 at once, and when `--waiting` of them wait. Milliseconds from before the submission to the arrival of the call,
medians of the rounds; each round has stores of its own. Also the memory of the waiting tasks: of the worker process
(resident, MiB) without and with them, and bytes of Redis for each.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

from bench.run import Run, wait
from sytq import config
from sytq.runtime import Runtime, build

LIMIT = 50
LONE = 40  # deliveries to the quick host with nothing else to do
PACE = 0.05
SPAWN = multiprocessing.get_context("spawn")


class Quick(asyncio.Protocol):
    """Answers every request, whose body is when it was submitted, and notes its delay; requests arrive whole."""

    delays: ClassVar[list[float]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.delays.append(time.time() - float(data.rpartition(b"\r\n\r\n")[2]))
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def hosts(pipe: Connection) -> None:
    """Tell the ports of the quick and of the hanging host, then the delays since the last question."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for protocol in (Quick, asyncio.Protocol):
            server = await loop.create_server(protocol, "127.0.0.1", 0)
            pipe.send(server.sockets[0].getsockname()[1])
        while True:
            await loop.run_in_executor(None, pipe.recv)
            pipe.send(Quick.delays[:])
            Quick.delays.clear()

    asyncio.run(serve())


def submit(service: Runtime, url: str, bodies: Iterable[str]) -> None:
    submitter = service.submitter
    submitter.submit([submitter.prepare("webhook", {"url": url, "body": body}) for body in bodies])


def flood(environ: dict[str, str], url: str, count: int) -> None:
    service = build(config.load(environ=environ))
    for start in range(0, count, 200):
        submit(service, url, ["x"] * min(200, count - start))


def delays(run: Run, url: str, pipe: Connection, is_over: Callable[[int], bool]) -> list[float]:
    """In ms, of deliveries that are submitted until it is over, given their number."""
    submitted, arrived = 0, list[float]()
    while not is_over(submitted):
        submit(run.ours, url, [str(time.time())])
        submitted += 1
        time.sleep(PACE)

    def all_arrived() -> bool:
        pipe.send(0)
        arrived.extend(pipe.recv())
        return len(arrived) >= submitted

    wait(all_arrived)
    return sorted(delay * 1000 for delay in arrived)


def resident(pid: int) -> float:
    """MiB of the largest process that this one has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in children]
    return max(pages) * resource.getpagesize() / 2**20


def one_round(
    folder: Path, ports: tuple[int, int], pipe: Connection, arriving: int, waiting: int
) -> tuple[list[list[float]], tuple[float, float, float]]:
    quick, slow = (f"http://127.0.0.1:{port}/" for port in ports)
    run = Run(
        folder,
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
        SYTQ_WEBHOOK__HOST__RUNNING=str(LIMIT),
        SYTQ_WORKER__REQUEST_TIMEOUT="1h",
        SYTQ_WORKER__SHUTDOWN_TIMEOUT="1s",
    )
    worker = run.worker("sytq.actors")

    def waits() -> int:
        state = run.ours.inspection.limiter(f"host:127.0.0.1:{ports[1]}")
        return state.waiting if state else 0

    def begin_flood(count: int) -> multiprocessing.process.BaseProcess:
        process = SPAWN.Process(target=flood, args=(run.environ, slow, count))
        process.start()
        return process

    try:
        delays(run, quick, pipe, lambda count: count == 1)  # until the worker is up
        submit(run.ours, slow, ["x"] * (LIMIT + 10))
        wait(lambda: waits() == 10)
        found = [delays(run, quick, pipe, lambda count: count == LONE)]
        without, empty = resident(worker.pid), int(run.client.info("memory")["used_memory"])
        flooding = begin_flood(arriving)
        found.append(delays(run, quick, pipe, lambda count: count >= LONE and not flooding.is_alive()))
        flooding = begin_flood(max(0, waiting - arriving))
        flooding.join()
        wait(lambda: waits() >= max(arriving, waiting))
        found.append(delays(run, quick, pipe, lambda count: count == LONE))
        each = (int(run.client.info("memory")["used_memory"]) - empty) / max(arriving, waiting)
        return found, (without, resident(worker.pid), each)
    finally:
        worker.terminate()
        worker.wait()
        run.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arriving", type=int, default=20_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pipe, other = multiprocessing.Pipe()
    process = SPAWN.Process(target=hosts, args=(other,), daemon=True)
    process.start()
    ports = pipe.recv(), pipe.recv()
    rounds, memory = [], []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found, used = one_round(Path(folder), ports, pipe, given.arriving, given.waiting)
            rounds.append(found)
            memory.append(used)
    process.terminate()
    kinds = ("nothing else to do", f"{given.arriving:,} arrive", f"{given.waiting:,} wait")
    lone = statistics.median(statistics.median(one[0]) for one in rounds)
    print(f"other deliveries, ms: {'median':>9} {'95 %':>7} {'worst':>7}")
    for n, kind in enumerate(kinds):
        figures = [(statistics.median(one[n]), one[n][int(len(one[n]) * 0.95)], one[n][-1]) for one in rounds]
        median, late, worst = map(statistics.median, zip(*figures, strict=True))
        print(f"{kind:21} {median:9.1f} {late:7.1f} {worst:7.1f}   {median / lone:.1f} times")
    without, beside, each = map(statistics.median, zip(*memory, strict=True))
    print(f"worker: {without:.0f} MiB without waiting tasks, {beside:.0f} with; Redis: {each:.0f} bytes for each")


if __name__ == "__main__":
    main()
