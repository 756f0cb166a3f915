"""Delayed tasks: what a million far ones cost, and how punctual near ones are beside them.

    python -m bench.delayed [--far 1000000] [--near 50]

Prints the worker's memory before and after, Redis' memory per delayed task, and how late the near ones started.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from bench.run import Run, wait
from sytq.broker.dispatcher import Envelope
from sytq.ids import new_id

DAY_MS = 86_400_000


def delayed(run: Run, due_ms: int, count: int) -> None:
    now = int(time.time() * 1000)
    payload = json.dumps({"sent": due_ms / 1000})
    for start in range(0, count, 2000):
        part = min(2000, count - start)
        run.dispatcher.dispatch(
            [Envelope(new_id(), "pickup", "bench", "normal", payload, now, due_ms=due_ms) for _ in range(part)]
        )


def resident_mib(pid: int) -> float:
    """Memory of a Dramatiq master's worker process."""
    (child,) = [
        path.parent
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.exists() and path.read_text().rpartition(")")[2].split()[1] == str(pid)
    ][:1]
    pages = int((child / "statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--far", type=int, default=1_000_000)
    parser.add_argument("--near", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        worker = run.worker("sytq.actors")
        try:
            delayed(run, int(time.time() * 1000) + 1, 1)
            wait(lambda: run.client.llen("pickups") == 1)
            before, redis_before = resident_mib(worker.pid), run.client.info("memory")["used_memory"]
            began = time.perf_counter()
            delayed(run, int(time.time() * 1000) + DAY_MS, arguments.far)
            entering = time.perf_counter() - began
            redis_after = run.client.info("memory")["used_memory"]
            run.client.delete("pickups")
            start = int(time.time() * 1000) + 1000
            for number in range(arguments.near):
                delayed(run, start + number * 100, 1)
            wait(lambda: run.client.llen("pickups") == arguments.near)
            late = [float(value) * 1000 for value in run.client.lrange("pickups", 0, -1)]
            size = (redis_after - redis_before) / arguments.far
            print(f"{arguments.far:,} far tasks entered in {entering:.0f} s, {size:,.0f} bytes of Redis each")
            print(f"worker memory {before:.0f} MiB before, {resident_mib(worker.pid):.0f} MiB after")
            print(
                f"{arguments.near} near ones late by (ms): median {statistics.median(late):.1f}, worst {max(late):.1f}"
            )
        finally:
            worker.terminate()
            worker.wait()
            run.close()


if __name__ == "__main__":
    main()
