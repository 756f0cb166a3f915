"""How soon an idle worker begins a task: ours beside Dramatiq's RedisBroker and taskiq's streams, in one run.

    python -m bench.pickup [--tasks 20] [--pause 1.0]

Milliseconds from before the submitter's call (`send`, `kiq`, `submit` with its committed row, a POST to one gunicorn
process) to the first line of the task, so long after the one before; one private Redis, SQLite, one worker process.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.api import served
from bench.run import SYTQ, Run, end, wait

Send = Callable[[], Awaitable[object]]


async def measured(run: Run, worker: subprocess.Popen[bytes], send: Send, tasks: int, pause: float) -> list[float]:
    """In ms, sorted."""
    run.client.delete("pickups")
    try:
        await send()
        wait(lambda: run.client.llen("pickups") == 1)  # it is up; this one is not counted
        for number in range(tasks):
            time.sleep(pause)  # the pause is what is measured: how an idle worker notices a task
            await send()
            wait(lambda done=number + 2: run.client.llen("pickups") == done)
    finally:
        end(worker)
    return sorted(float(value) * 1000 for value in run.client.lrange("pickups", 1, -1))


async def compare(run: Run, tasks: int, pause: float) -> dict[str, list[float]]:
    from bench import peer_dramatiq, peer_taskiq

    async def send_dramatiq() -> None:
        peer_dramatiq.pickup.send(time.time())

    async def send_taskiq() -> None:
        await peer_taskiq.pickup.kiq(time.time())

    async def submit() -> None:
        run.ours.submitter.submit([run.ours.submitter.prepare("pickup", {"sent": time.time()})])

    found = {"RedisBroker, send": await measured(run, run.worker("bench.peer_dramatiq"), send_dramatiq, tasks, pause)}
    await peer_taskiq.broker.startup()
    worker = run.start(*peer_taskiq.COMMAND, "1")
    found["taskiq, kiq"] = await measured(run, worker, send_taskiq, tasks, pause)
    await peer_taskiq.broker.shutdown()
    found["ours, submit"] = await measured(run, run.worker(SYTQ), submit, tasks, pause)
    with served("sytq.api:create_app()", run.environ, 1) as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port)

        async def post() -> None:
            body = json.dumps({"type": "pickup", "payload": {"sent": time.time()}})
            connection.request("POST", "/v2/tasks", body, {"Content-Type": "application/json"})
            connection.getresponse().read()

        found["ours, POST"] = await measured(run, run.worker(SYTQ), post, tasks, pause)
        connection.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--pause", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        try:
            found = asyncio.run(compare(run, given.tasks, given.pause))
        finally:
            run.close()
    beside = statistics.median(found["taskiq, kiq"])
    print("from the call to the start on an idle worker, ms: median, worst, median beside taskiq")
    for name, delays in found.items():
        median = statistics.median(delays)
        print(f"  {name:18} {median:7.1f} {delays[-1]:7.1f} {median / beside:7.2f}")


if __name__ == "__main__":
    main()
