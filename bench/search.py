"""Searches among a million tasks: by an indexed value, and of what no index has. Also what the index costs.

    python -m bench.search [--rows 1000000] [--runs 5] [--engine sqlite|mysql]

Prints medians. "before" is the whole list in one statement, as if there were no slices.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import peewee

from sytq.ids import new_id
from sytq.ledger import search as module
from sytq.ledger.database import is_mysql, open_database, read
from sytq.ledger.insert import NewTask
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.ledger.query import condition, parse
from sytq.ledger.search import Search
from sytq.ledger.search_upkeep import SearchUpkeep
from tests.servers import MySQLServer
from tests.tables import make_tables

#: Rows of every seventh number have ended in a way of their own; order 765432 is in the middle of the list.
_MYSQL = """
    INSERT INTO sytq_tasks (id, type, queue, priority, state, payload, metadata, owner, error, created_at, finished_at)
    SELECT CONCAT('01a00000-0000-7000-8000-', LPAD(seq, 12, '0')), IF(seq MOD 3 = 0, 'webhook', 'llm'), 'default',
      'normal', IF(seq MOD 50 = 0, 'dead', 'succeeded'),
      CONCAT('{{"order_id": ', seq, ', "note": "', REPEAT('x', 120), '"}}'),
      CONCAT('{{"customer": "c', seq MOD 5000, '", "env": "', IF(seq MOD 2, 'prod', 'test'), '"}}'),
      IF(seq MOD 10 = 0, 'shop', 'bank'), IF(seq MOD 50 = 0, 'the provider timed out', NULL),
      '2026-01-01' + INTERVAL seq SECOND, '2026-01-01' + INTERVAL seq + 5 SECOND
    FROM seq_1_to_{rows}"""
_SQLITE = """
    WITH RECURSIVE numbers(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM numbers WHERE seq < {rows})
    INSERT INTO sytq_tasks (id, type, queue, priority, state, payload, metadata, owner, error, created_at, finished_at)
    SELECT '01a00000-0000-7000-8000-' || printf('%012d', seq), iif(seq % 3 = 0, 'webhook', 'llm'), 'default',
      'normal', iif(seq % 50 = 0, 'dead', 'succeeded'),
      '{{"order_id": ' || seq || ', "note": "' || printf('%.120c', 'x') || '"}}',
      '{{"customer": "c' || (seq % 5000) || '", "env": "' || iif(seq % 2, 'prod', 'test') || '"}}',
      iif(seq % 10 = 0, 'shop', 'bank'), iif(seq % 50 = 0, 'the provider timed out', NULL),
      strftime('%Y-%m-%d %H:%M:%f000', '2026-01-01', seq || ' seconds'),
      strftime('%Y-%m-%d %H:%M:%f000', '2026-01-01', (seq + 5) || ' seconds')
    FROM numbers"""
_QUERIES = (
    "payload.order_id:765432",
    "metadata.customer:c77",
    "payload.order_id:765432 state:succeeded",
    "owner:shop state:dead metadata.customer:c100",
    "c77",
    f"state:succeeded metadata.customer:{','.join(f'c{n}' for n in range(1, 21))}",
    "payload.note:nothing",
    "error:nothing",
    "result.total:>5",
    "",
)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def median(work: Callable[[], object], runs: int) -> float:
    return statistics.median(timed(work) for _ in range(runs))


def whole(database: peewee.Database, query: str) -> None:
    """The list in one statement."""
    holds = condition(parse(query), mysql=is_mysql(database))
    rows = Task.select(Task.id).where(holds).order_by(Task.created_at.desc(), Task.id.desc()).limit(20)
    read(database, partial(list, rows))


def submissions(database: peewee.Database, ledger: Ledger, upkeep: SearchUpkeep, number: int) -> tuple[float, float]:
    """Microseconds a task of submissions in batches of 100, and of indexing them."""
    payload = '{"order_id": 12345678, "note": "' + "x" * 120 + '"}'
    new = partial(
        NewTask, type="llm", queue="default", priority="normal", payload=payload, metadata='{"customer": "c"}'
    )
    accepted = timed(lambda: [ledger.accept([new(new_id()) for _ in range(100)]) for _ in range(number // 100)])
    indexed = timed(partial(_until_done, partial(upkeep.index_new, 500)))
    return accepted * 1000 / number, indexed * 1000 / number


def measure(url: str, rows: int, runs: int) -> None:
    database = open_database(url, timeout=600)
    make_tables(database)
    ledger, search, upkeep = Ledger(database), Search(database), SearchUpkeep(database)
    print("MariaDB" if is_mysql(database) else "SQLite", flush=True)
    if not read(database, Task.select().exists):
        make(database, rows)
        for query in filter(None, _QUERIES):
            if not query.isalnum():
                print(f"  without     {query:46} {timed(partial(whole, database, query)):9.1f} ms", flush=True)
        first = median(lambda: search.page(parse(_QUERIES[0]), limit=20), runs)
        print(f"  first answer without the index, {_QUERIES[0]}: {first:.0f} ms", flush=True)
        upkeep.declare(["payload.order_id"])
        cpu, whole_fill = time.process_time(), timed(partial(_until_done, partial(upkeep.fill, 500)))
        cpu = (time.process_time() - cpu) * 1e6 / rows
        print(
            f"  index of all old tasks: {whole_fill / 1000:.0f} s; {cpu:.0f} us of CPU a task in the worker", flush=True
        )
    for query in _QUERIES:
        wanted = parse(query)
        page, count = search.page(wanted, limit=20), search.count(wanted, module.COUNT_MAX)
        listing = median(partial(search.page, wanted, limit=20), runs)
        counting = median(partial(search.count, wanted, module.COUNT_MAX), runs)
        reached = f", back to {page.searched_to}" if page.searched_to else ""
        number = f"{count.number}{'' if count.exact else '+'}"
        shown = query if len(query) < 46 else f"{query[:43]}..."
        print(f"  {shown or '(all)':46} {listing:8.1f} ms, {len(page.tasks)} found{reached}", flush=True)
        print(f"  {'':46} {counting:8.1f} ms, counted {number}", flush=True)
    costs = [submissions(database, ledger, upkeep, 5000) for _ in range(runs)]
    accepted, indexed = (statistics.median(each) for each in zip(*costs, strict=True))
    print(f"  a submission {accepted:.0f} us, its index entries {indexed:.0f} us", flush=True)
    looks = median(lambda: (upkeep.verify(5000), upkeep.sweep(5000)), 5 * runs)
    print(f"  a look at 5,000 tasks and 5,000 entries for what was missed {looks:.1f} ms", flush=True)
    database.close_all()  # type: ignore[attr-defined]


def _until_done(step: Callable[[], bool]) -> None:
    while step():
        pass


def make(database: peewee.Database, rows: int) -> None:
    statement = (_MYSQL if is_mysql(database) else _SQLITE).format(rows=rows)
    filled = timed(partial(_run, database, statement))
    print(f"  {rows:,} tasks made in {filled / 1000:.0f} s", flush=True)


def _run(database: peewee.Database, statement: str) -> None:
    with database.connection_context():
        database.execute_sql(statement)
        database.execute_sql("ANALYZE TABLE sytq_tasks" if is_mysql(database) else "ANALYZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engine", choices=("sqlite", "mysql"))
    parser.add_argument("--url")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.url:
        measure(options.url, options.rows, options.runs)
        return
    if options.engine != "mysql":
        with tempfile.TemporaryDirectory() as folder:
            measure(f"sqlite:///{folder}/bench.db", options.rows, options.runs)
    if options.engine != "sqlite":
        server = MySQLServer(("--innodb-buffer-pool-size=1G", "--innodb-flush-log-at-trx-commit=1"))
        server.start()
        try:
            measure(server.create_database("bench"), options.rows, options.runs)
        finally:
            server.remove()


if __name__ == "__main__":
    main()
