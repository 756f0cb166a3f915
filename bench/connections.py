"""What one worker process and one API process hold open and weigh: `python -m bench.connections`.

Prints the figures of docs/scaling.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.installation import Installation
from tests.servers import MySQLServer, RedisServer


def resident(pid: int) -> float:
    """MiB of a process and those below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024 + sum(resident(int(child)) for child in below)


def most(count: Callable[[], tuple[int, int]], seconds: float) -> tuple[int, int]:
    """The most connections seen within some time, of Redis and of MySQL."""
    deadline, found = time.monotonic() + seconds, (0, 0)
    while time.monotonic() < deadline:
        redis, mysql = count()
        found = max(found[0], redis), max(found[1], mysql)
        time.sleep(0.1)
    return found


def main() -> None:
    redis, mysql = RedisServer(options=("--appendfsync", "everysec")), MySQLServer(options=())
    redis.start()
    mysql.start()
    url = mysql.create_database("bench")
    folder = Path(tempfile.mkdtemp(prefix="sytq-bench-"))
    installation = Installation(folder, url, redis.url)

    def count() -> tuple[int, int]:
        with redis.client() as client:
            clients = len(client.client_list()) - 1
        with installation.runtime.database.connection_context():
            statement = (
                "SELECT count(*) FROM information_schema.processlist WHERE db = 'bench' AND id <> connection_id()"
            )
            (found,) = installation.runtime.database.execute_sql(statement).fetchone()
        return clients, int(found)

    def figures(name: str, work: Callable[[], object], pid: Callable[[], int]) -> None:
        before = count()
        work()
        found = most(count, 8)
        print(f"{name:40} {found[0] - before[0]:>6} {found[1] - before[1]:>6} {resident(pid()):>8.0f}")

    print(f"{'':40} {'Redis':>6} {'MySQL':>6} {'MiB':>8}")
    try:
        worker: list[int] = []
        figures(
            "worker process, idle",
            lambda: worker.append(installation.start_worker(8, fresh=True).pid),
            lambda: worker[0],
        )
        tasks = [installation.prepare("gentle", f"g{n}", 2.0) for n in range(1000)]
        figures(
            "more with 1,000 async tasks running",
            lambda: installation.runtime.submitter.submit(tasks),
            lambda: worker[0],
        )
        start_api = partial(installation.start_api, fresh=True)
        figures("API process (and its master), idle", start_api, lambda: installation.gunicorn.pid)
    finally:
        installation.close()
        redis.remove()
        mysql.remove()


if __name__ == "__main__":
    main()
