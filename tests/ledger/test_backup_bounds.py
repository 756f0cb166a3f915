"""A dump and a restore hold few rows at a time, and a restore that is killed has written none."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest

from sytq.ledger.backup import dump
from sytq.ledger.backup.restore import restore
from sytq.ledger.database import is_mysql, open_database
from tests.ledger.test_backup import PLUGINS, quiet
from tests.tables import make_tables

ROWS, LENGTH = 4_000, 10_000
BOUND = ROWS * LENGTH / 2

#: Restores until some rows are written, says so, and waits for its end.
HALFWAY = """
import sys, time
from pathlib import Path
from sytq.ledger.backup.restore import restore
from sytq.ledger.database import open_database

def halfway(done, of, table):
    if table == "pages" and done > 1000:
        print("halfway", flush=True)
        time.sleep(600)

restore(Path(sys.argv[1]), open_database(sys.argv[2]), halfway)
"""


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two empty databases of an engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'source.db'}", f"sqlite:///{tmp_path / 'target.db'}"
        return
    server = request.getfixturevalue("mysql_server")
    names = [f"b{os.urandom(6).hex()}" for _ in range(2)]
    yield tuple(map(server.create_database, names))
    for name in names:
        server.drop_database(name)


@pytest.fixture
def source(urls: tuple[str, str]) -> Iterator[peewee.Database]:
    database = open_database(urls[0])
    make_tables(database)
    with database.connection_context():
        database.execute_sql("CREATE TABLE pages (id INTEGER PRIMARY KEY, text TEXT, more TEXT)")
        numbers = f"WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {ROWS})"
        text = (
            f"REPEAT('ab', {LENGTH // 2})"
            if is_mysql(database)
            else f"replace(hex(zeroblob({LENGTH // 2})), '00', 'ab')"
        )
        if is_mysql(database):
            database.execute_sql(f"SET SESSION max_recursive_iterations = {ROWS}")
        database.execute_sql(f"INSERT INTO pages (id, text) {numbers} SELECT id, {text} FROM n")
    yield database
    database.close_all()  # type: ignore[attr-defined]


def test_a_dump_and_a_restore_hold_few_rows_at_a_time(
    source: peewee.Database, urls: tuple[str, str], tmp_path: Path
) -> None:
    target = open_database(urls[1])
    make_tables(target)
    peaks = []
    for work in (
        lambda: dump(source, tmp_path / "b", ["pages"], quiet),
        lambda: restore(tmp_path / "b", target, quiet, PLUGINS),
    ):
        tracemalloc.start()
        assert work().rows["pages"] == ROWS
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < BOUND, peaks
    target.close_all()  # type: ignore[attr-defined]


def test_a_killed_restore_leaves_no_row_and_is_repeated(
    source: peewee.Database, urls: tuple[str, str], tmp_path: Path
) -> None:
    if not is_mysql(source):
        with source.connection_context():  # SQLite's indexes and triggers follow the rows
            source.execute_sql("CREATE INDEX pages_more ON pages (more)")
            source.execute_sql(
                "CREATE TRIGGER full AFTER INSERT ON pages BEGIN DELETE FROM pages WHERE id = NEW.id; END"
            )
    dump(source, tmp_path / "b", ["pages"], quiet)
    process = subprocess.Popen(
        [sys.executable, "-c", HALFWAY, tmp_path / "b", urls[1]], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "halfway\n"
    process.kill()
    process.wait()
    process.stdout.close()
    target = open_database(urls[1])
    with target.connection_context():
        assert target.execute_sql("SELECT COUNT(*) FROM pages").fetchone() == (0,)
    restore(tmp_path / "b", target, quiet)
    with target.connection_context(), source.connection_context():
        for query in ("SELECT COUNT(*), MIN(text), MAX(text) FROM pages", "SELECT COUNT(*) FROM sytq_tasks"):
            assert target.execute_sql(query).fetchall() == source.execute_sql(query).fetchall()
        assert {index.name for index in target.get_indexes("pages")} == {
            index.name for index in source.get_indexes("pages")
        }
    target.close_all()  # type: ignore[attr-defined]
