"""The history of tasks, as the recorder writes it: batches of the event stream become rows.

    python -m bench.history [--tasks 20000] [--rounds 3] [--beside COMMIT] [--engine sqlite|mysql] [--profile]

`together`: start and end of a task are in one batch, as those of short tasks are. `apart`: the ends come in a later
batch. `retried`: two attempts of each task, every event in another batch. Tasks a second, and microseconds of CPU for
each task of this process and of MariaDB (full flush). With `--beside` an older commit writes the same in turns. Medians
of the rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sytq.config import load
from sytq.ids import new_id
from sytq.ledger.database import open_database
from sytq.ledger.hold import advance
from sytq.ledger.ledger import Ledger, NewTask
from sytq.service.recording import Recording
from sytq.tasktypes.registry import Registry
from sytq.worker.loops.recorder import events_of
from tests import releases
from tests.servers import MySQLServer
from tests.tables import make_tables

CASES = ("together", "apart", "retried")
_FETCHED = 49  # tasks of one fetch, whose starts are one entry of the stream
_BATCH = 490
_PAYLOAD = json.dumps({"order_id": 12345678, "note": "x" * 120})
_WORKER = "host-311-9f2c4a"
Batch = list[dict[bytes, bytes]]


def starts(ids: list[str], token: int, attempts: int) -> Batch:
    """The entries that fetches append."""
    fetches = (ids[at : at + _FETCHED] for at in range(0, len(ids), _FETCHED))
    common = {b"kind": b"started", b"worker": _WORKER.encode(), b"at": b"%d" % token}
    return [
        common | {b"data": json.dumps([[task_id, token, attempts, False] for task_id in fetch]).encode()}
        for fetch in fetches
    ]


def ends(ids: list[str], token: int, attempts: int, *, again: bool = False) -> Batch:
    """The entries that acknowledgements append."""
    data = {
        "state": "retrying" if again else "succeeded",
        "attempts": attempts,
        "worker": _WORKER,
        "outcome": "failed" if again else "succeeded",
        "started": token,
        "finished": token + 1500,
        "due": token + 10_000 if again else None,
        "result": None if again else '{"status": 200}',
        "error": "HTTP 503" if again else None,
        "fingerprint": "http-503" if again else None,
        "progress": None,
        "detail": {"status": 503 if again else 200},
    }
    text = json.dumps(data).encode()
    return [{b"kind": b"ended", b"id": task.encode(), b"token": b"%d" % token, b"data": text} for task in ids]


def batches(case: str, ids: list[str]) -> Iterator[Batch]:
    token = int(time.time() * 1000)
    groups = [ids[at : at + _BATCH] for at in range(0, len(ids), _BATCH)]
    if case == "together":
        yield from (starts(group, token, 1) + ends(group, token, 1) for group in groups)
        return
    for attempt in (1,) if case == "apart" else (1, 2):
        yield from (starts(group, token + attempt, attempt) for group in groups)
        again = case == "retried" and attempt == 1
        yield from (ends(group, token + attempt, attempt, again=again) for group in groups)


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(case: str, url: str, server: int, tasks: int, profile: bool) -> dict[str, float]:
    """Write the history of so many tasks; what it took for each, in microseconds."""
    database = open_database(url)
    make_tables(database)
    ledger = Ledger(database)
    recording = Recording(Registry(load(environ={}, plugins=False)), ledger, None)  # type: ignore[arg-type]
    new = partial(NewTask, type="t", queue="default", priority="normal", payload=_PAYLOAD, owner="shop")
    ids = [new_id() for _ in range(tasks)]
    for at in range(0, tasks, 500):
        ledger.accept([new(task_id) for task_id in ids[at : at + 500]])
    written = list(batches(case, ids))
    profiler = cProfile.Profile() if profile else None
    began, own, of_server = time.perf_counter(), time.process_time(), cpu_of(server)
    if profiler:
        profiler.enable()
    for position, batch in enumerate(written, start=1):
        events = [event for fields in batch for event in events_of(fields)]
        recording.write(events, also=partial(advance, database, position - 1, position))
    if profiler:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    took = (time.perf_counter() - began, time.process_time() - own, cpu_of(server) - of_server)
    rows, count = ledger.find(states=("succeeded",), limit=1)
    assert count >= tasks, (count, rows[0].state)
    database.close_all()  # type: ignore[attr-defined]
    return dict(zip(("seconds", "own", "server"), (value / tasks * 1e6 for value in took), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", help="a commit to compare with")
    parser.add_argument("--engine", choices=("sqlite", "mysql"))
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        case, url, server = given.measure
        print(json.dumps(measure(case, url, int(server), given.tasks, given.profile)))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        trees = {"this": releases.this()}
        if given.beside:
            trees = {given.beside: releases.unpack(given.beside, Path(folder), given.beside)} | trees
        if given.engine != "mysql":
            compare("SQLite", trees, given, lambda name: f"sqlite:///{folder}/{name}.db", os.getpid())
        if given.engine != "sqlite":
            server = MySQLServer(("--innodb-buffer-pool-size=512M", "--innodb-flush-log-at-trx-commit=1"))
            server.start()
            try:
                compare("MariaDB", trees, given, server.create_database, server.pid)
            finally:
                server.remove()


def compare(engine: str, trees: dict[str, releases.Release], given: argparse.Namespace, url: Any, server: int) -> None:
    """Print the medians of the trees, which write in turns, and the ratio of the last to the first."""
    options = ["--tasks", str(given.tasks), *(["--profile"] if given.profile else [])]
    for case in given.case or CASES:
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for number in range(given.rounds):
            for place, (name, tree) in enumerate(trees.items()):
                where = url(f"{case}_{place}_{number}")
                done = tree.drive("bench.history", "--measure", case, where, str(server), *options, stdout=-1)
                seen[name].append(json.loads(done.stdout))
        medians = {
            name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in seen.items()
        }
        for name, of in medians.items():
            shown = f"{1e6 / of['seconds']:8,.0f} tasks/s; CPU a task {of['own']:6.0f} us here"
            of_server = f", {of['server']:6.0f} of MariaDB" if engine != "SQLite" else ""
            print(f"{engine:8} {case:9} {name:10} {shown}{of_server}")
        if len(medians) > 1:
            first, last = medians.values()
            ratios = ", ".join(f"{key} {last[key] / first[key]:.2f}" for key in first if first[key])
            print(f"{engine:8} {case:9} ratios: {ratios}", flush=True)


if __name__ == "__main__":
    main()
