"""The indexes of `sytq_tasks`: which of them a million rows are read by, and what each costs.

    python -m bench.indexes [--rows 1000000] [--engine sqlite|mysql] [--without COLUMNS ...]

Runs what the pages, lists and loops ask, and prints for each the milliseconds (median of three) and the indexes that
the plans of its statements name; at the end the indexes that no plan names. `--without state,id` leaves an index out.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import peewee

from sytq.ledger.database import is_mysql, open_database, read
from sytq.ledger.deletion import needed
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.rollup import Rollup
from sytq.ledger.search import Search
from sytq.ledger.state_counts import StateCounts
from sytq.ledger.statistics import of_period
from sytq.service import tree
from tests.servers import MySQLServer
from tests.tables import make_tables

_DAY = dt.datetime(2026, 1, 12)
#: Of 2,000 tasks 1 is of the type and queue `rare`; 1 of 50 is dead, 1 of 200 cancelled, the last 5,000 are unfinished.
_COLUMNS = "id, type, queue, priority, state, payload, owner, host, parent, ordering_key, created_at, finished_at"
_MYSQL = """
    INSERT INTO sytq_tasks ({columns})
    SELECT CONCAT('01a00000-0000-7000-8000-', LPAD(seq, 12, '0')),
      CASE WHEN seq MOD 2000 = 0 THEN 'rare' WHEN seq MOD 3 = 0 THEN 'llm' ELSE 'webhook' END,
      CASE WHEN seq MOD 2000 = 0 THEN 'rare' WHEN seq MOD 3 = 0 THEN 'llm' ELSE 'default' END, 'normal',
      CASE WHEN seq > {rows} - 5000 THEN ELT(1 + seq MOD 4, 'queued', 'scheduled', 'running', 'retrying')
        WHEN seq MOD 50 = 7 THEN 'dead' WHEN seq MOD 200 = 1 THEN 'cancelled' ELSE 'succeeded' END,
      REPEAT('x', 140), CONCAT('owner', seq MOD 20), CONCAT('h', seq MOD 300, '.example:443'),
      IF(seq MOD 20 = 0, CONCAT('01a00000-0000-7000-8000-', LPAD(seq - seq MOD 100 + 1, 12, '0')), NULL),
      IF(seq MOD 100 = 0, CONCAT('order-', seq MOD 7000), NULL),
      '2026-01-01' + INTERVAL seq SECOND, IF(seq > {rows} - 5000, NULL, '2026-01-01' + INTERVAL seq + 5 SECOND)
    FROM seq_1_to_{rows}"""
_SQLITE = """
    WITH RECURSIVE numbers(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM numbers WHERE seq < {rows})
    INSERT INTO sytq_tasks ({columns})
    SELECT '01a00000-0000-7000-8000-' || printf('%012d', seq),
      CASE WHEN seq % 2000 = 0 THEN 'rare' WHEN seq % 3 = 0 THEN 'llm' ELSE 'webhook' END,
      CASE WHEN seq % 2000 = 0 THEN 'rare' WHEN seq % 3 = 0 THEN 'llm' ELSE 'default' END, 'normal',
      CASE WHEN seq > {rows} - 5000 THEN
          CASE seq % 4 WHEN 0 THEN 'queued' WHEN 1 THEN 'scheduled' WHEN 2 THEN 'running' ELSE 'retrying' END
        WHEN seq % 50 = 7 THEN 'dead' WHEN seq % 200 = 1 THEN 'cancelled' ELSE 'succeeded' END,
      printf('%.140c', 'x'), 'owner' || (seq % 20), 'h' || (seq % 300) || '.example:443',
      iif(seq % 20 = 0, '01a00000-0000-7000-8000-' || printf('%012d', seq - seq % 100 + 1), NULL),
      iif(seq % 100 = 0, 'order-' || (seq % 7000), NULL),
      strftime('%Y-%m-%d %H:%M:%f000', '2026-01-01', seq || ' seconds'),
      iif(seq > {rows} - 5000, NULL, strftime('%Y-%m-%d %H:%M:%f000', '2026-01-01', (seq + 5) || ' seconds'))
    FROM numbers"""
_SEARCHES = (
    *("", "state:succeeded", "state:dead", "state:queued", "type:webhook", "type:rare", "type:webhook state:dead"),
    *("type:rare state:dead", "type:rare state:succeeded", "type:webhook state:cancelled", "type:rare state:queued"),
    *("queue:default", "queue:rare", "queue:default state:dead", "queue:rare state:succeeded", "queue:rare state:dead"),
    *("queue:default state:queued", "host:h7.example:443", "host:h7.example:443 state:dead"),
)


def indexes(database: peewee.Database) -> dict[str, list[str]]:
    return {index.name: index.columns for index in database.get_indexes("sytq_tasks") if index.name != "PRIMARY"}


def questions(database: peewee.Database, rows: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is asked, by whom."""
    ledger, search = Ledger(database), Search(database)
    for text in _SEARCHES:
        yield f"search {text}", partial(search.page, parse(text), limit=20)
    for text in ("state:dead", "type:webhook", "type:rare state:dead", "queue:default state:dead", "queue:rare"):
        yield f"count {text}", partial(search.count, parse(text), 1000)
    yield "counts by type and state", partial(search.counts, ["webhook", "llm", "rare"])
    yield "counts by state", StateCounts(database).of_all
    for found in (
        *({}, {"states": ["succeeded"]}, {"states": ["dead"]}, {"queue": "default", "or_type": "llm"}),
        *({"queue": "rare"}, {"queue": "default"}, {"states": ["queued", "retrying"], "queue": "default"}),
    ):
        yield f"GET /api/tasks {found}", partial(ledger.find, **found)  # type: ignore[arg-type]
    yield "reconciler, all unfinished, first page", partial(ledger.unfinished, None, 500)
    page = ledger.unfinished(None, 500)
    yield "reconciler, all unfinished, further page", partial(ledger.unfinished, page[-1], 500)
    late = dt.datetime(2026, 1, 1) + dt.timedelta(seconds=rows - 60)
    yield "reconciler, newcomers", partial(ledger.newcomers, late, "", 500)
    yield "dead tasks, for metrics", ledger.count_dead
    yield (
        "explanation: earlier of one ordering key",
        partial(ledger.predecessors, f"01a00000-0000-7000-8000-{rows:012}"),
    )
    root = "01a00000-0000-7000-8000-000000000101"
    yield "tree of a task", lambda: read(database, lambda: tree.tree(Task.get_by_id(root), 100))
    yield "figures of ten minutes", lambda: read(database, partial(Rollup(database)._tasks, 1767268800, 1767269400))
    yield "report of an hour", lambda: of_period(database, _DAY, _DAY + dt.timedelta(hours=1))
    yield "report of an hour, one type", lambda: of_period(database, _DAY, _DAY + dt.timedelta(hours=1), "rare")
    for what, condition in (
        ("cleanup: dead before a day", (Task.state == "dead") & (Task.finished_at < dt.datetime(2026, 1, 2))),
        ("cleanup: the same of a type", (Task.state == "dead") & (Task.type == "rare") & (Task.finished_at < _DAY)),
    ):
        query = Task.select(Task.id).where(condition, ~needed()).order_by(Task.finished_at).limit(500)
        yield what, lambda query=query: read(database, lambda: list(query.clone()))


class Watch:
    """Notes the statements of a database."""

    def __init__(self, database: peewee.Database) -> None:
        self.seen: list[tuple[str, Any]] = []
        self._database, self._execute = database, database.execute_sql
        database.execute_sql = self.execute_sql  # type: ignore[method-assign]

    def execute_sql(self, sql: str, params: Any = None, *more: Any) -> Any:
        self.seen.append((sql, params))
        return self._execute(sql, params, *more)

    def plans(self) -> list[str]:
        """The plans of what was noted, as `table: index` of each step; `table: all` is a whole table."""
        noted, self.seen = self.seen, []
        plans: list[str] = []
        for sql, params in noted:
            if not sql.lstrip("( ").startswith(("SELECT", "WITH")) or "sytq_" not in sql:
                continue
            if is_mysql(self._database):
                for row in self._execute(f"EXPLAIN {sql}", params).fetchall():
                    table, kind, key, extra = row[2], row[3], row[5], row[9] or ""
                    sorts = " (sorts)" if "filesort" in extra else ""
                    if table and not table.startswith("<"):
                        plans.append(f"{key or kind}{sorts}")
            else:
                steps = [row[3] for row in self._execute(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()]
                for step in steps:
                    if match := re.search(r"USING (?:COVERING )?INDEX (\w+)", step):
                        plans.append(match[1])
                    elif step.startswith("SCAN") and "CONSTANT" not in step:
                        plans.append("ALL")
                    elif "TEMP B-TREE FOR ORDER BY" in step:
                        plans.append("(sorts)")
        return list(dict.fromkeys(plans))


def measure(database: peewee.Database, rows: int, without: list[str]) -> None:
    make_tables(database)
    fill(database, rows, without)
    used: set[str] = set()
    for what, ask in questions(database, rows):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            ask()
            times.append((time.perf_counter() - began) * 1000)
        watch = Watch(database)
        ask()
        with database.connection_context():
            plans = watch.plans()
        del database.execute_sql
        used.update(plan.removesuffix(" (sorts)") for plan in plans)
        shown = ", ".join(
            plan.removeprefix("sytq_tasks_").replace("sqlite_autoindex_sytq_tasks_1", "id") for plan in plans
        )
        print(f"  {what:52} {statistics.median(times):9.1f} ms  {shown}", flush=True)
    with database.connection_context():
        print("  no plan names:", ", ".join(sorted(set(indexes(database)) - used)) or "none")


def fill(database: peewee.Database, rows: int, without: list[str]) -> None:
    """Make the rows, then the indexes one by one, with the seconds that each takes."""
    mysql = is_mysql(database)
    with database.connection_context():
        wanted = indexes(database)
        for name in wanted:
            if not name.startswith("sqlite_"):
                database.execute_sql(f"DROP INDEX {name}{' ON sytq_tasks' if mysql else ''}")
        began = time.perf_counter()
        database.execute_sql((_MYSQL if mysql else _SQLITE).format(rows=rows, columns=_COLUMNS))
        print(f"  {rows:,} tasks made in {time.perf_counter() - began:.0f} s", flush=True)
        for name, columns in wanted.items():
            if ",".join(columns) in without or name.startswith("sqlite_"):
                continue
            began = time.perf_counter()
            database.execute_sql(f"CREATE INDEX {name} ON sytq_tasks ({', '.join(columns)})")
            print(f"  {name} made in {time.perf_counter() - began:.0f} s", flush=True)
        database.execute_sql("ANALYZE TABLE sytq_tasks" if mysql else "ANALYZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=("sqlite", "mysql"))
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if given.engine != "mysql":
        with tempfile.TemporaryDirectory() as folder:
            print("SQLite")
            measure(open_database(f"sqlite:///{folder}/bench.db", timeout=600), given.rows, given.without)
    if given.engine != "sqlite":
        server = MySQLServer(("--innodb-buffer-pool-size=1G", "--innodb-flush-log-at-trx-commit=1"))
        server.start()
        try:
            print("MariaDB")
            measure(open_database(server.create_database("bench"), timeout=600), given.rows, given.without)
        finally:
            server.remove()


if __name__ == "__main__":
    main()
