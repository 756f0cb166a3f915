"""What dashboards cost: submissions a second with and without ten that poll, and the server's time for each page.

    python -m bench.dashboard [--tasks 100000] [--seconds 6] [--rounds 5] [--dashboards 10] [--database sqlite|mysql]

One gunicorn process, made-up history. A dashboard is an open tab of a browser: every five seconds it asks for the
overview or the list of tasks, with the ETag of its last answer, as app.js does. Rounds with and without alternate, so
that a machine that is busy in between disturbs both alike; the medians count. Each page is asked for 50 times, by an
admin and by the owner of a quarter of the tasks.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import peewee

from bench.api import TASK, served, stores
from bench.load import measure
from sytq import config
from sytq.dev.seed import figures
from sytq.dev.seed.rows import Rows
from sytq.dev.seed.stories import Stories
from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.values import utcnow
from sytq.runtime import build

_EVERY = 5.0  # seconds between two polls of a tab
_POLLED = ("", "/tasks")
_PAGES = ("", "/tasks", "/tasks?q=state:dead", "/failures", "/queues", "/types", "/workers", "/limiters", "/schedules")
_ASKED = 50
_OWNER = "crm"


@contextmanager
def dashboards(port: int, count: int) -> Iterator[list[int]]:
    """So many open tabs; yields the statuses of their polls so far."""
    closing_time, statuses = threading.Event(), []

    def poll(number: int) -> None:
        path, etag = f"/dashboard{_POLLED[number % len(_POLLED)]}", ""
        pause = _EVERY * number / count  # not all at the same moment
        while not closing_time.wait(pause):
            pause = _EVERY
            status, _, etag = ask(port, path, {"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {}))
            statuses.append(status)

    tabs = [threading.Thread(target=poll, args=(number,)) for number in range(count)]
    for tab in tabs:
        tab.start()
    try:
        yield statuses
    finally:
        closing_time.set()
        for tab in tabs:
            tab.join()


def ask(port: int, path: str, headers: dict[str, str]) -> tuple[int, float, str]:
    """Status, the server's own time in ms, and the ETag of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Accept": "text/html"} | headers)
        answer = connection.getresponse()
        answer.read()
        took = (answer.getheader("Server-Timing") or "").partition("dur=")[2]
        return answer.status, float(took or 0), answer.getheader("ETag") or ""


def submissions(port: int, rounds: int, seconds: float, count: int) -> None:
    """Print the rate of single submissions, without and with dashboards, in turns."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    late: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for watched in (False, True):
            with ExitStack() as stack:
                polls = stack.enter_context(dashboards(port, count)) if watched else []
                found = measure(port, "POST", "/api/v1/tasks", TASK, connections=64, seconds=seconds)
            rates[watched].append(found.rate)
            late[watched].append(found.at(0.99))
            label = f"with, {len(polls)} polls" if watched else "without"
            print(f"  {label}: {found.rate:,.0f}/s, p99 {found.at(0.99):.0f} ms")
    without, with_ = (statistics.median(rates[watched]) for watched in (False, True))
    print(
        f"submissions/s: {without:,.0f} without, {with_:,.0f} with {count} dashboards, ratio {with_ / without:.2f};"
        f" p99 ms: {statistics.median(late[False]):.0f}, {statistics.median(late[True]):.0f}"
    )


def pages(environ: dict[str, str], database: peewee.Database) -> None:
    """Print the server's time for each page, for an admin and for an owner."""
    create = ApiKeys(database).create
    callers = {
        "admin": create("bench", "bench", Grant(("admin",)), by="bench")[1],
        _OWNER: create("bench", _OWNER, Grant(("read",)), by="bench")[1],
    }
    with served("sytq.api:create_app()", environ | {"SYTQ_AUTH__ENABLED": "true"}, 1) as (port, _):
        for name, key in callers.items():
            for path in _PAGES:
                asked = {"Authorization": f"Bearer {key}"}
                found = [ask(port, f"/dashboard{path}", asked) for _ in range(_ASKED)]
                statuses = {status for status, _, _ in found}
                times = sorted(took for _, took, _ in found)
                print(
                    f"  {name:8} {path or '/':24} {statistics.median(times):7.1f} ms,"
                    f" p99 {times[int(_ASKED * 0.99) - 1]:7.1f} ms{'' if statuses == {200} else f', {statuses}'}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dashboards", type=int, default=10)
    parser.add_argument("--database", choices=("sqlite", "mysql"), action="append")
    given = parser.parse_args()
    for kind in given.database or ["sqlite", "mysql"]:
        with (
            tempfile.TemporaryDirectory() as folder,
            stores(kind, Path(folder)) as (environ, _),
            served("sytq.api:create_app()", environ, 1) as (port, _),
        ):
            database = build(config.load(environ=environ)).database
            Stories(Rows(database), utcnow()).tell(given.tasks)
            figures.count(database)
            print(f"{kind}, {given.tasks:,} tasks")
            pages(environ, database)
            submissions(port, given.rounds, given.seconds, given.dashboards)
            database.close_all()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
