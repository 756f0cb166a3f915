"""The API beside a bare Falcon handler in the same gunicorn, in one run: requests a second and p99.

    python -m bench.api [--connections 64] [--seconds 4] [--rounds 3] [--workers 1] [--database sqlite|mysql]

A submission is contract E's, committed in the database (MariaDB with innodb_flush_log_at_trx_commit=1, SQLite with
synchronous=FULL) and in Redis; "a row for each" promises the same, request by request (see bare.py); a batch is 100 of
the same on /v2, with its figures for one task; a read looks one task up. Batches come over an eighth of the
connections. The rounds of all of them alternate, so that a machine that is busy in between disturbs them alike; the
median round counts. The CPU time of the API's processes is what is left of the comparison when others use the machine;
beside it is that of the database server and of Redis, which share the machine's cores with the API and the load
generator.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.load import Measured, measure
from bench.run import cpu_seconds, wait
from sytq import config
from sytq.runtime import build
from tests.servers import MySQLServer, RedisServer, free_port
from tests.tables import make_tables

REPO = Path(__file__).parents[1]
#: What was measured, and the CPU time in us for each request (or task) of the API, the database server and Redis.
Round = tuple[Measured, tuple[float, ...]]
#: Seconds of CPU in 0.2 s: less is a process that has dealt with what came.
_IDLE = 0.04
TASK = b'{"url":"https://example.com/hook","method":"POST","headers":{"X-Order":"{n}"},"body":"{n}"}'
BATCH = b'{"tasks":[' + b",".join([b'{"type":"webhook","payload":' + TASK + b"}"] * 100) + b"]}"


@contextlib.contextmanager
def served(app: str, environ: dict[str, str], workers: int) -> Iterator[tuple[int, int]]:
    """gunicorn with our configuration; yields its port and process id."""
    port = free_port()
    environ = {"SYTQ_LOGGER__LEVEL": "warning"} | environ
    environ |= {"SYTQ_API__PORT": str(port), "SYTQ_API__WORKERS": str(workers)}
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "python:sytq.api.gunicorn_conf", app], env=environ, cwd=REPO
    )
    try:
        wait(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def waiters(port: int, pid: int, task_id: str, count: int) -> Iterator[None]:
    """So many connections that wait for a task: they have come before, and have gone after, what is measured."""

    def settle() -> None:
        before, used = 0.0, 1.0
        while count and used > _IDLE:
            time.sleep(0.2)
            after = cpu_seconds(pid, ())[0]
            before, used = after, after - before

    head = f"GET /v2/tasks/{task_id} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n".encode()
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for connection in held:
        connection.sendall(head)
    settle()
    yield
    for connection in held:
        connection.close()
    settle()


@contextlib.contextmanager
def stores(kind: str, folder: Path) -> Iterator[tuple[dict[str, str], tuple[int, int]]]:
    """A private Redis and database, migrated; yields the environment that names them, and the process ids of database
    server (-1 is none) and Redis."""
    redis = RedisServer(options=("--appendfsync", "everysec"))
    redis.start()
    mysql = MySQLServer(options=()) if kind == "mysql" else None
    try:
        url = f"sqlite:///{folder / 'bench.db'}"
        if mysql:
            mysql.start()
            mysql.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
            url = mysql.create_database("bench")
        environ = os.environ | {"SYTQ_DATABASE__URL": url, "SYTQ_REDIS__URL": redis.url}
        make_tables(build(config.load(environ=environ)).database)
        yield environ, (mysql.pid if mysql else -1, redis.pid)
    finally:
        redis.remove()
        if mysql:
            mysql.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "mysql"), action="append")
    given = parser.parse_args()
    for kind in given.database or ["sqlite", "mysql"]:
        with (
            tempfile.TemporaryDirectory() as folder,
            stores(kind, Path(folder)) as (environ, servers),
            served("bench.bare:create_app()", environ, given.workers) as bare,
            served("sytq.api:create_app()", environ, given.workers) as ours,
        ):
            request = urllib.request.Request(f"http://127.0.0.1:{ours[0]}/api/v1/tasks", TASK)
            request.add_header("Content-Type", "application/json")
            task_id = json.load(urllib.request.urlopen(request))["task_id"]
            one = f"/api/tasks/{task_id}"
            asked = {
                "bare Falcon, POST": (bare, "POST", "/", TASK),
                "bare, a row for each": (bare, "POST", "/row", TASK),
                "single submission": (ours, "POST", "/api/v1/tasks", TASK),
                "... while 900 wait": (ours, "POST", "/api/v1/tasks", TASK),
                "batch of 100, in tasks": (ours, "POST", "/v2/tasks/batch", BATCH),
                "bare Falcon, GET": (bare, "GET", "/", b""),
                "read": (ours, "GET", one, b""),
            }
            rounds: dict[str, list[Round]] = {name: [] for name in asked}
            for _ in range(given.rounds):
                for name, ((port, pid), method, path, body) in asked.items():
                    # Fewer for batches, or most of what is counted would be under way when time is up.
                    tasks, connections = (100, given.connections // 8) if body is BATCH else (1, given.connections)
                    with waiters(port, pid, task_id, 900 if "wait" in name else 0):
                        before = cpu_seconds(pid, servers)
                        measured = measure(port, method, path, body, connections=connections, seconds=given.seconds)
                        used = zip(before, cpu_seconds(pid, servers), strict=True)
                        count = len(measured.latencies) * tasks
                    cpu = tuple((after - earlier) / count * 1e6 for earlier, after in used)
                    rounds[name].append((replace(measured, rate=measured.rate * tasks), cpu))
            show(kind, rounds)


def show(kind: str, rounds: dict[str, list[Round]]) -> None:
    print(
        f"{kind}: what, requests/s, beside bare Falcon, CPU us of the API, beside bare Falcon, of the database server,"
        " of Redis, p50 ms, p99 ms, statuses"
    )
    bare_rate = bare_cpu = 1.0
    for name, measured in rounds.items():
        rate = statistics.median(one.rate for one, _ in measured)
        cpu, database, redis = (statistics.median(part) for part in zip(*(cpu for _, cpu in measured), strict=True))
        if name.startswith("bare Falcon"):
            bare_rate, bare_cpu = rate, cpu
        half, late = (statistics.median(one.at(share) for one, _ in measured) for share in (0.5, 0.99))
        statuses = " ".join(sorted({status for one, _ in measured for status in one.statuses}))
        ratios = f"{rate:8,.0f} {rate / bare_rate:6.2f} {cpu:8.0f} {bare_cpu / cpu:6.2f} {database:6.0f} {redis:6.0f}"
        print(f"  {name:22} {ratios} {half:7.1f} {late:7.1f}  {statuses}")


if __name__ == "__main__":
    main()
