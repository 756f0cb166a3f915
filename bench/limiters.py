"""Limiters: what a permit costs, and how often tasks are refused that wait for one.

    python -m bench.limiters [--processes 2] [--seconds 4] [--tasks 2000] [--limit 50]

Prints permits a second of two limiters (acquired and released, a script each) from several processes at once, with the
server's time for each script; and for tasks of 0.2 s, of which few may run at once, on two worker processes: how long
all of them took beside the ideal, and how many starts were refused.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from bench.run import Run, envelopes, wait
from sytq import Breaker, Limiter, Permit
from sytq.broker.connection import Redis
from sytq.broker.handover import Handover
from sytq.broker.keys import Keys
from sytq.broker.limiters import Limiters

SECONDS = 0.2  # of a task; as in bench_types.py


def pass_through(url: str, number: int, seconds: float) -> int:
    limiters = Limiters(Redis(url), Keys("sytq"), 4.0, Handover(Keys("sytq"), ["default"], {}))
    ours = (
        Limiter("provider:bench", concurrency=1000, adaptive=True, breaker=Breaker()),
        Limiter("model:bench", concurrency=100),
    )
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        permit = Permit(f"{number}-{count}", 1, 1, ours, cost=0)
        (refusal,) = limiters.acquire_all([permit])
        assert refusal is None
        permit.report("ok")
        limiters.release_all([permit])
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        workers = []
        try:
            run.client.config_resetstat()
            with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
                work = [(run.server.url, number, given.seconds) for number in range(given.processes)]
                permits = sum(pool.starmap(pass_through, work))
            script = run.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
            print(f"{permits / given.seconds:,.0f} permits/s from {given.processes} processes; ", end="")
            print(f"{script:.0f} us of the server for each of the two scripts")

            run.client.flushall()
            workers = [run.worker("sytq.actors") for _ in range(2)]
            wait(lambda: run.client.zcard("{sytq}:workers") == 2)
            time.sleep(1)  # until both consume
            payload = f'{{"limit": {given.limit}}}'
            began = time.perf_counter()
            run.dispatcher.dispatch(envelopes("gated", "gated", given.tasks, payload))
            wait(lambda: run.ours.inspection.totals().get(("gated", "succeeded")) == given.tasks)
            took = time.perf_counter() - began
            refused = run.ours.inspection.totals().get(("gated", "waited"), 0)
            ideal = given.tasks / given.limit * SECONDS
            print(f"{given.tasks} tasks, {given.limit} at once: {took:.1f} s (ideal {ideal:.1f}); ", end="")
            print(f"{refused / given.tasks:.2f} refusals a task")
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
            run.close()


if __name__ == "__main__":
    main()
