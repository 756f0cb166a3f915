"""Valuations against a provider that takes 2 s: two worker processes, rows in MariaDB, on this machine.

    python -m bench.llm [--rows 2000] [--rejected-rows 500]

First: all rows at once, beside two processes that do nothing but make the same calls. Then the memory of a call that
waits for a provider that takes 20 s, once those of all rows are in flight. Then a provider that answers 429 above 50
concurrent calls: without limits, with an adaptive limit of 200, with the right limit of 50. The provider is a process
of its own; it counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import redis
import requests
from aiohttp import ClientSession, TCPConnector, web
from sytq_plugins.llm.row import ValuationRecord

from bench.run import cpu_seconds
from sytq import config
from sytq.embedded import EmbeddedServer
from sytq.runtime import Runtime, build
from tests.servers import MySQLServer, free_port, poll
from tests.tables import make_tables

SECONDS, SLOW = 2.0, 20.0  # that an answer takes
BEARS = 50
FIRST = 400  # rows that have both workers load what a call needs: one alone may fetch a hundred at once
REPORT = "The house is worth 420 to 460 thousand. " * 10


# -- the provider's process


class Provider:
    """Answers after so many seconds; above `bears` concurrent calls with 429 at once."""

    def __init__(self, bears: int, seconds: float) -> None:
        self._bears = bears
        self._seconds = seconds
        self._running = 0
        self._counts = {"answered": 0, "rejected": 0, "peak": 0}

    async def complete(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        if self._bears and self._running >= self._bears:
            self._counts["rejected"] += 1
            return web.json_response({"error": {"message": "too many concurrent calls"}}, status=429)
        self._running += 1
        self._counts["peak"] = max(self._counts["peak"], self._running)
        try:
            await asyncio.sleep(self._seconds)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            usage = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
            for delta, finish, used in (({"content": REPORT}, None, None), ({}, "stop", usage)):
                event = {
                    "model": "m",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
                    "usage": used,
                }
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
            self._counts["answered"] += 1
            return response
        finally:
            self._running -= 1

    async def counts(self, request: web.Request) -> web.Response:
        return web.json_response(self._counts)


def serve(port: int, bears: int, seconds: float) -> None:
    provider = Provider(bears, seconds)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.complete)
    app.router.add_get("/counts", provider.counts)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=4096)


# -- one run


class Run:
    """A fresh ledger and Redis, a provider, and two worker processes."""

    def __init__(
        self,
        folder: Path,
        mysql: MySQLServer,
        name: str,
        bears: int = 0,
        limits: Mapping[str, object] = {},
        seconds: float = SECONDS,
    ) -> None:
        folder = folder / name
        folder.mkdir()
        self._redis = EmbeddedServer(folder / "redis")
        self._redis.start()
        self._servers = redis.Redis.from_url(self._redis.url).info("server")["process_id"], mysql.pid
        port = free_port()
        command = [sys.executable, "-m", "bench.llm", "--serve", str(port), "--bears", str(bears)]
        self._provider = subprocess.Popen([*command, "--seconds", str(seconds)])
        self.address = f"http://127.0.0.1:{port}"
        environ = os.environ | {
            "SYTQ_DATABASE__URL": mysql.create_database(name),
            "SYTQ_REDIS__URL": self._redis.url,
            "SYTQ_PROVIDERS__BENCH__BASE_URL": f"{self.address}/v1",
            "SYTQ_PROVIDERS__BENCH__MODEL": "m",
            "SYTQ_PROVIDERS__BENCH__LIMITS": json.dumps(limits),
            # A provider that says 429 all day is what is measured here.
            "SYTQ_PROVIDERS__BENCH__CIRCUIT_BREAKER": '{"enabled": false}',
            "SYTQ_SCHEDULES__CLEANUP": '{"enabled": false}',
            "SYTQ_LOGGER__LEVEL": "error",
        }
        self._runtime: Runtime = build(config.load(environ=environ))
        make_tables(self._runtime.database)
        self._workers = subprocess.Popen(
            [sys.executable, "-m", "dramatiq", "sytq.actors", "-p2", "-t4"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        poll(lambda: len(self._runtime.inspection.workers()) == 2, timeout=60, message="two workers")
        time.sleep(2)

    def valuate(self, rows: int) -> float:
        """Seconds from the submission of all rows to the last that is completed."""
        began = self.submit(range(1, rows + 1))
        poll(lambda: self._completed() == rows, timeout=900, interval=0.1, message="all rows are completed")
        return time.monotonic() - began

    def submit(self, ids: range) -> float:
        """Insert rows and submit a task for each; return when that began."""

        def insert() -> None:
            for some in (ids[at : at + 500] for at in range(0, len(ids), 500)):
                ValuationRecord.insert_many(
                    [{"id": id, "status": "pending", "user_message": f"What is house {id} worth?"} for id in some]
                ).execute()

        submitter = self._runtime.submitter
        tasks = [submitter.prepare("llm", {"table_name": "valuation_records", "id": id}) for id in ids]
        began = time.monotonic()
        submitter.submit(tasks, also=insert)
        return began

    def _completed(self) -> int:
        with self._runtime.database.connection_context():
            return int(ValuationRecord.select().where(ValuationRecord.status == "completed").count())

    def counts(self) -> dict[str, int]:
        return dict(requests.get(f"{self.address}/counts", timeout=10).json())

    def memory(self) -> float:
        """KiB of the worker processes together."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _children(self._workers.pid)]
        return sum(pages) * resource.getpagesize() / 1024

    def cpu(self) -> list[float]:
        """Seconds that the workers, Redis and MariaDB have worked."""
        return cpu_seconds(self._workers.pid, self._servers)

    def close(self) -> None:
        for process in (self._workers, self._provider):
            process.terminate()
            process.wait(200)
        self._runtime.database.close_all()
        self._redis.stop()


def _children(pid: int) -> list[int]:
    """The worker processes below Dramatiq's master, without its helpers that hold no task."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return sorted(found, key=lambda child: -int(Path(f"/proc/{child}/statm").read_text().split()[1]))[:2]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=2000)
    arguments.add_argument("--rejected-rows", type=int, default=500)
    arguments.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--bears", type=int, default=0, help=argparse.SUPPRESS)
    arguments.add_argument("--seconds", type=float, default=SECONDS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve:
        return serve(given.serve, given.bears, given.seconds)
    mysql = MySQLServer(options=())
    mysql.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _full_speed(Path(folder), mysql, given.rows)
            _waiting(Path(folder), mysql, given.rows)
            _rejected(Path(folder), mysql, given.rejected_rows)
    finally:
        mysql.remove()


async def _post(address: str, calls: int) -> None:
    async def post(session: ClientSession) -> None:
        async with session.post(f"{address}/v1/chat/completions", json={"model": "m"}) as response:
            await response.read()

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        await asyncio.gather(*(post(session) for _ in range(calls)))


def _calls(address: str, calls: int) -> float:
    """Seconds that a loop takes which does nothing else."""
    began = time.monotonic()
    asyncio.run(_post(address, calls))
    return time.monotonic() - began


def _bare(address: str, calls: int) -> float:
    """The longer of two processes that make half of the calls each."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return max(pool.map(_calls, [address] * 2, [calls // 2] * 2))


def _full_speed(folder: Path, mysql: MySQLServer, rows: int) -> None:
    run = Run(folder, mysql, "full")
    try:
        worked = run.cpu()
        seconds = run.valuate(rows)
        counts, used = run.counts(), zip(worked, run.cpu(), strict=True)
        bare = _bare(run.address, rows)
        print(f"{rows} valuations, each {SECONDS:g} s at the provider, two worker processes, rows in MariaDB")
        print(f"  {seconds:.1f} s in all, two bare loops {bare:.1f} ({seconds / bare:.1f} times), at most ", end="")
        print(f"{counts['peak']} calls in flight")
        cpu = ", ".join(f"{(after - before) / rows * 1000:.2f}" for before, after in used)
        print(f"  for each: ms of CPU of workers, Redis and MariaDB: {cpu}")
    finally:
        run.close()


def _waiting(folder: Path, mysql: MySQLServer, rows: int) -> None:
    run = Run(folder, mysql, "waiting", seconds=SLOW)
    try:
        unused = run.memory()
        run.valuate(FIRST)
        before = run.memory()
        run.submit(range(FIRST + 1, FIRST + 1 + rows))
        poll(lambda: run.counts()["peak"] == rows, timeout=SLOW, interval=0.1, message="all calls are in flight")
        each, first = (run.memory() - before) / rows, (before - unused) / 2 / 1024
        print(f"  {rows} calls in flight at once: {each:.0f} KiB each; the first of a process {first:.0f} MiB")
    finally:
        run.close()


def _rejected(folder: Path, mysql: MySQLServer, rows: int) -> None:
    print(f"{rows} valuations, provider answers 429 above {BEARS} calls; the ideal is {rows / BEARS * SECONDS:.0f} s")
    print("  limit                seconds  rejected")
    for name, title, limits in (
        ("none", "none", {}),
        ("adaptive", "adaptive, to 200", {"running": 200, "adaptive": True}),
        ("exact", "50", {"running": BEARS, "adaptive": False}),
    ):
        run = Run(folder, mysql, name, BEARS, limits)
        try:
            seconds = run.valuate(rows)
            print(f"  {title:20} {seconds:7.1f} {run.counts()['rejected']:9}")
        finally:
            run.close()


if __name__ == "__main__":
    main()
