"""A load generator for HTTP/1.1 that costs less than what it measures: raw sockets, several processes.

    python -m bench.load HOST:PORT CONNECTIONS SECONDS < request

Standard input is one whole request; `{n}` in it becomes a number that no other request has. Prints one line of JSON:
requests answered, seconds, every latency in ms, and the statuses seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass


class Connection(asyncio.Protocol):
    """One kept-alive connection that asks as fast as it is answered."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.run.request())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        data = self.received + data
        head, found, body = data.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length: ")
        if not found or len(body) < int(head[at + 16 :].split(b"\r", 1)[0]):
            self.received = data
            return
        self.received = b""
        if self.run.answered(int(head[9:12]), time.perf_counter() - self.began):
            self.ask()
        else:
            self.transport.close()


class Run:
    def __init__(self, template: bytes, seconds: float) -> None:
        self.parts = template.split(b"{n}")
        self.number = os.getpid() * 10_000_000
        self.ends = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()

    def request(self) -> bytes:
        if len(self.parts) == 1:
            return self.parts[0]
        self.number += 1
        # Of one length, so that Content-Length stands.
        return (b"%015d" % self.number).join(self.parts)

    def answered(self, status: int, seconds: float) -> bool:
        self.latencies.append(seconds * 1000)
        self.statuses[status] += 1
        return time.perf_counter() < self.ends


@dataclass(frozen=True)
class Measured:
    """What all generators saw together; latencies in ms, sorted."""

    rate: float
    latencies: list[float]
    statuses: dict[str, int]

    def at(self, share: float) -> float:
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


def measure(
    port: int, method: str, path: str, body: bytes = b"", *, connections: int, seconds: float, processes: int = 2
) -> Measured:
    """Ask one thing again and again over `connections`, from several processes. `{n}` as in the module."""
    length = len(body.replace(b"{n}", b"0" * 15))
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {length}\r\n\r\n".encode() + body
    arguments = [f"127.0.0.1:{port}", str(connections // processes), str(seconds)]
    generators = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.load", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(processes)
    ]
    for generator in generators:
        assert generator.stdin
        generator.stdin.write(request)
        generator.stdin.close()
    rate, latencies, statuses = 0.0, [], Counter[str]()
    for generator in generators:
        assert generator.stdout
        seen = json.loads(generator.stdout.read())
        generator.wait()
        rate += len(seen["latencies"]) / seen["seconds"]
        latencies += seen["latencies"]
        statuses.update(seen["statuses"])
    return Measured(rate, sorted(latencies), dict(statuses))


async def main() -> None:
    address, connections, seconds = sys.argv[1:]
    host, _, port = address.partition(":")
    template = sys.stdin.buffer.read()
    began = time.perf_counter()
    run = Run(template, float(seconds))
    loop = asyncio.get_running_loop()
    for _ in range(int(connections)):
        await loop.create_connection(lambda: Connection(run), host, int(port))
    while (left := run.ends - time.perf_counter()) > -1.0:
        await asyncio.sleep(max(0.05, left))
        if left < 0:
            break
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "latencies": [round(ms, 3) for ms in run.latencies],
                "statuses": run.statuses,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
