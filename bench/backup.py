"""A backup and its restore: how long they take, and how much memory, with a million tasks.

    python -m bench.backup [--rows 1000000]

Each runs in a process of its own, whose peak of resident memory is printed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from sytq import plugins
from sytq.ids import new_id
from sytq.ledger.backup import dump
from sytq.ledger.backup.restore import restore
from sytq.ledger.database import execute_many, open_database
from tests.servers import MySQLServer
from tests.tables import make_tables

_PAYLOAD = '{"table_name": "valuation_records", "id": 1}'
_TIMEOUT = 600.0


def _nothing(done: int, of: int, table: str) -> None:
    pass


def fill(url: str, rows: int) -> None:
    database = open_database(url, timeout=_TIMEOUT)
    make_tables(database)
    mark = database.param
    insert = (
        f"INSERT INTO sytq_tasks (id, type, state, payload, created_at) VALUES ({mark}, {mark}, {mark}, {mark}, {mark})"
    )
    now = dt.datetime(2026, 7, 1, 12, 0, 0, 1)
    with database.connection_context(), database.atomic():
        for start in range(0, rows, 1000):
            part = min(1000, rows - start)
            execute_many(database, insert, [(new_id(), "llm", "succeeded", _PAYLOAD, now) for _ in range(part)])
    database.close_all()  # type: ignore[attr-defined]


def write(url: str, file: Path) -> None:
    dump(open_database(url, pool=1, timeout=_TIMEOUT), file, [], _nothing)


def bring_back(url: str, file: Path) -> None:
    restore(file, open_database(url, pool=2, timeout=_TIMEOUT), _nothing, plugins.find(()).plugins)


def _measured(work: Callable[[str, Path], None], url: str, file: Path, to: Connection) -> None:
    began = time.perf_counter()
    work(url, file)
    to.send((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def measure(work: Callable[[str, Path], None], url: str, file: Path) -> tuple[float, float]:
    """Seconds and the peak in MiB of a new process."""
    mine, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_measured, args=(work, url, file, its))
    process.start()
    its.close()
    found: tuple[float, float] = mine.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    server = MySQLServer()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            urls = {
                "SQLite": [f"sqlite:///{folder}/{name}.db" for name in ("source", "target")],
                "MySQL": [server.create_database(name) for name in ("source", "target")],
            }
            for engine, (source, target) in urls.items():
                file = Path(folder) / engine
                fill(source, rows)
                for name, work, url in (("backup", write, source), ("restore", bring_back, target)):
                    seconds, peak = measure(work, url, file)
                    print(
                        f"{engine}, {name} of {rows:,} rows: {seconds:.1f} s, at most {peak:.0f} MiB resident",
                        flush=True,
                    )
    finally:
        server.remove()


if __name__ == "__main__":
    main()
