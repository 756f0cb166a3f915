"""What a killed process costs the others: `kill -9` of one process of two, and a task that kills its process.

    python -m bench.takeover [--runs 3] [--beside COMMIT] [--only async-120 ...]

`sytq worker` with two processes, rows in MariaDB. One process holds the tasks (10 minutes each), the other 20 tasks of
30 seconds; the first is killed. Seconds from there to the first, median and last restart, and the longest wait of tasks
that are submitted every 0.2 s meanwhile. `poison` is one task that kills its process beside 40 of 4 seconds; at most 3
attempts for each. With `--beside` an older commit does the same in turns. Each figure is the median of the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sytq_plugins.llm.row import ValuationRecord

from sytq import config
from sytq.embedded import EmbeddedServer
from sytq.runtime import build
from sytq.states import TERMINAL
from tests import releases
from tests.provider import ScriptedProvider, Stage, answers
from tests.servers import MySQLServer, poll
from tests.tables import make_tables

TYPES = Path(__file__).parent / "types"
#: Name -> task type, and how many tasks the killed process holds.
CASES = {
    f"{kind}-{number}": (type_name, number)
    for kind, type_name, numbers in (
        ("async", "anoted", (10, 120, 500, 10_000)),
        ("def", "noted", (10, 120, 500)),
        ("valuation", "llm", (10, 120, 500)),
    )
    for number in numbers
}
SIBLINGS, BYSTANDERS = 20, 40
#: systemd/sytq-worker@.service starts a group that has ended again after so many seconds.
RESTART_SECONDS = 1.0


class Group:
    """`sytq worker` with two processes on stores of its own, restarted when it ends."""

    def __init__(self, folder: Path, database_url: str, threads: int) -> None:
        self.folder, self.journal = folder, folder / "journal"
        self.journal.touch()
        self._rows = 0
        self._redis = EmbeddedServer(folder / "redis")
        self._redis.start()
        self._provider = ScriptedProvider()
        self._provider.play(self._answer)
        self._environ = os.environ | {
            "SYTQ_DATABASE__URL": database_url,
            "SYTQ_REDIS__URL": self._redis.url,
            "SYTQ_PLUGINS__PATHS": f'["{TYPES}"]',
            "SYTQ_PROVIDERS__BENCH__BASE_URL": self._provider.base_url,
            "SYTQ_PROVIDERS__BENCH__MODEL": "m",
            "SYTQ_SCHEDULES__CLEANUP": '{"enabled": false}',
            "SYTQ_LOGGER__LEVEL": "warning",
            "SYTQ_WORKER__PROCESSES": "2",
            "SYTQ_WORKER__THREADS": str(threads),
            "SYTQ_WORKER__ASYNC_CONCURRENCY": "11000",
        }
        self.runtime = build(config.load(environ=self._environ))
        make_tables(self.runtime.database)
        self._start()
        poll(lambda: len(self.pids()) == 2, message=lambda: (folder / "log").read_text()[-2000:])
        time.sleep(1)

    def _start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "sytq.cli", "worker"]
            self._worker = subprocess.Popen(
                command, env=self._environ, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def keep_running(self) -> None:
        """Restart the group as systemd does, if it has ended."""
        if self._worker.poll() is not None:
            time.sleep(RESTART_SECONDS)
            self._start()

    def pids(self) -> list[int]:
        """Process ids of the live workers, as their names tell."""
        return [int(worker.name.split("-")[-2]) for worker in self.runtime.inspection.workers() if worker.age < 3]

    def submit(self, type_name: str, names: list[str], seconds: float = 0.0) -> list[str]:
        submitter = self.runtime.submitter
        rows = [
            {"id": self._rows + n, "status": "pending", "user_message": f"{name} {seconds}"}
            for n, name in enumerate(names, 1)
        ]
        self._rows += len(rows)
        if type_name == "llm":
            payloads: list[dict[str, Any]] = [{"table_name": "valuation_records", "id": row["id"]} for row in rows]
        else:
            payloads = [{"journal": str(self.journal), "name": name, "seconds": seconds} for name in names]
        tasks = [submitter.prepare(type_name, payload) for payload in payloads]
        for at in range(0, len(tasks), 500):
            part = rows[at : at + 500]
            insert = (lambda part=part: ValuationRecord.insert_many(part).execute()) if type_name == "llm" else None
            submitter.submit(tasks[at : at + 500], also=insert)
        return [task.id for task in tasks]

    def starts(self) -> dict[str, list[float]]:
        """When the tasks of each name started."""
        found: dict[str, list[float]] = {}
        for line in self.journal.read_text().splitlines():
            name, at = line.split()
            found.setdefault(name, []).append(float(at))
        return found

    def wait_started(self, prefix: str, number: int) -> None:
        poll(lambda: sum(name.startswith(prefix) for name in self.starts()) == number, timeout=120, message=prefix)

    def killed(self) -> None:
        """From now on tasks end as soon as they start."""
        Path(f"{self.journal}.killed").touch()

    async def _answer(self, stage: Stage) -> None:
        name, seconds = stage.asked.body["messages"][-1]["content"].split()
        with self.journal.open("a") as file:
            file.write(f"{name} {time.time()}\n")
        if not Path(f"{self.journal}.killed").exists():
            await asyncio.sleep(float(seconds))
        await answers()(stage)

    def close(self) -> None:
        for pid in [self._worker.pid, *_descendants(self._worker.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._worker.wait()
        self._provider.close()
        self.runtime.database.close_all()  # type: ignore[attr-defined]
        self._redis.stop()


def _descendants(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return children + [each for child in children for each in _descendants(child)]
    return []


# -- one run


def takeover(group: Group, type_name: str, number: int) -> dict[str, float]:
    """One process holds `number` tasks, the other SIBLINGS; kill the first."""
    victim, sibling = group.pids()
    _hold(group, type_name, "held", number, 600, idle=sibling)
    _hold(group, type_name, "sibling", SIBLINGS, 30, idle=victim)
    group.killed()
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    submitted: dict[str, float] = {}
    again, starts = list[float](), group.starts()
    while len(again) < number or not submitted.keys() <= starts.keys():
        if time.time() > killed + 300:
            sys.exit(f"{len(again)} of {number} tasks have restarted after 300 s")
        group.keep_running()
        if len(again) < number:
            name = f"new-{len(submitted)}"
            submitted[name] = time.time()
            group.submit(type_name, [name])
        time.sleep(0.2)
        starts = group.starts()
        again = sorted(at - killed for name, ats in starts.items() if name.startswith("held") for at in ats[1:2])
    waits = [starts[name][0] - at for name, at in submitted.items()]
    return {"first": again[0], "median": statistics.median(again), "last": again[-1], "new": max(waits)}


def _hold(group: Group, type_name: str, prefix: str, number: int, seconds: float, *, idle: int) -> None:
    """Let the process that is not `idle` start these tasks."""
    os.kill(idle, signal.SIGSTOP)
    group.submit(type_name, [f"{prefix}-{n}" for n in range(number)], seconds)
    group.wait_started(prefix, number)
    os.kill(idle, signal.SIGCONT)
    # What its blocking read was given while it stood still is its own; here it was nothing.
    time.sleep(1)


def poison(group: Group) -> dict[str, float]:
    idle, _ = group.pids()
    os.kill(idle, signal.SIGSTOP)  # so that all begin in one process
    bystanders = group.submit("bystander", [f"bystander-{n}" for n in range(BYSTANDERS)], 4)
    [culprit] = group.submit("culprit", ["culprit"], 1)
    group.wait_started("culprit", 1)
    os.kill(idle, signal.SIGCONT)
    began = time.time()
    rows: list[Any] = []
    while time.time() < began + 300:
        group.keep_running()
        rows = [group.runtime.ledger.get(task) for task in [*bystanders, culprit]]
        if all(row.state in TERMINAL for row in rows):
            break
        time.sleep(0.2)
    return {
        "dead": sum(row.state != "succeeded" for row in rows[:-1]),
        "attempts": max(row.attempts for row in rows[:-1]),
        "starts": len(group.starts()["culprit"]),
        "ended": time.time() - began,
    }


def measure(case: str, database_url: str) -> dict[str, float]:
    type_name, number = CASES.get(case, ("", 0))
    with tempfile.TemporaryDirectory() as folder:
        threads = number + 100 if type_name == "noted" else 8
        group = Group(Path(folder), database_url, threads)
        try:
            return takeover(group, type_name, number) if number else poison(group)
        finally:
            group.close()


# -- all runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--beside", help="a commit to compare with")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "poison"], default=[*CASES, "poison"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--database", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.database)))
        return
    mysql = MySQLServer(options=())
    mysql.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            trees = {"this": releases.this()}
            if given.beside:
                trees = {given.beside: releases.unpack(given.beside, Path(folder), given.beside)} | trees
            for case in given.only:
                seen: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
                for run in range(given.runs):
                    for name, tree in trees.items():
                        database = mysql.create_database(f"{case}_{name}_{run}".replace("-", "_"))
                        seen[name].append(_measured(tree, case, database))
                for name, found in seen.items():
                    figures = {key: statistics.median(one[key] for one in found) for key in found[0]}
                    shown = "  ".join(f"{key} {value:6.1f}" for key, value in figures.items())
                    print(f"{case:14} {name:10} {shown}", flush=True)
    finally:
        mysql.remove()


def _measured(tree: releases.Release, case: str, database_url: str) -> dict[str, float]:
    done = tree.drive(
        "bench.takeover", "--measure", case, "--database", database_url, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
