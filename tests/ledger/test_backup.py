"""A backup is a consistent snapshot, restores equal on either engine, and is complete or refused."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peewee
import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq import plugins
from sytq.errors import BackupBroken, ConfigError
from sytq.ids import new_id
from sytq.ledger.backup import Summary, check, dump
from sytq.ledger.backup.restore import restore as restore_with
from sytq.ledger.database import open_database
from sytq.ledger.ledger import Ledger
from sytq.ledger.migrations import migrate, pending
from sytq.ledger.models import Attempt, Step, Task
from tests.tables import make_tables

STRANGE = ["", "plain", 'quote " and \\ and \n line', "报告 🧾 é", "x" * 70_000, '{"a": 1}', "\x01\x7f", "NULL"]

PLUGINS = plugins.find(()).plugins
restore = partial(restore_with, plugins=PLUGINS)


def quiet(done: int, of: int, table: str) -> None:
    pass


def opened(url: str) -> Iterator[peewee.Database]:
    database = open_database(url)
    make_tables(database)
    Ledger(database)  # binds the core's models
    database.bind([ValuationRecord])
    yield database
    database.close_all()  # type: ignore[attr-defined]


@pytest.fixture
def database(database_url: str) -> Iterator[peewee.Database]:
    yield from opened(database_url)


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[peewee.Database]:
    """Another, empty database, once per engine: not even migrated."""
    if request.param == "sqlite":
        made = open_database(f"sqlite:///{tmp_path / 'target.db'}")
    else:
        server = request.getfixturevalue("mysql_server")
        name = f"r{os.urandom(6).hex()}"
        made = open_database(server.create_database(name))
    yield made
    made.close_all()  # type: ignore[attr-defined]
    if request.param == "mysql":
        server.drop_database(name)


def fill(database: peewee.Database, tasks: int = 1200) -> None:
    rng = random.Random(7)
    start = dt.datetime(2026, 7, 1, 12, 0, 0, 123456)
    with database.connection_context(), database.atomic():
        for number in range(tasks):
            moment = start + dt.timedelta(seconds=number)
            task = Task.create(
                id=new_id(), type="llm", state=rng.choice(["queued", "dead", "succeeded"]), payload="{}",
                result=rng.choice([None, *STRANGE[:4]]), error=None, attempts=number % 5, token=2**52 + number,
                created_at=moment, finished_at=moment if number % 2 else None,
            )  # fmt: skip
            if number % 10 == 0:
                Attempt.create(task_id=task.id, token=1, attempt=1, outcome="dead", started_at=moment)
                Step.create(task_id=task.id, name="s", token=1, state="done", value="[1]", started_at=moment)
        for number, text in enumerate([None, *STRANGE]):
            long = text if text is None or len(text) < 60_000 else text[:60_000]
            ValuationRecord.create(
                id=-(2**62) + number, status="处理中", user_message=long, report=long, callback_url=None,
                created_at=start.replace(microsecond=0), updated_at=start.replace(microsecond=0),
            )  # fmt: skip


def content(database: peewee.Database, tables: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, times as text to the second or microsecond."""

    def plain(value: Any) -> Any:
        text = value.isoformat(" ") if isinstance(value, dt.datetime) else value
        is_time = isinstance(text, str) and len(text) >= 19 and text[4:5] == "-" and text[10:11] == " "
        return text.partition(".")[0] + "." + (text.partition(".")[2] or "0").ljust(6, "0") if is_time else text

    found = {}
    with database.connection_context():
        for table in tables:
            columns = [column.name for column in database.get_columns(table)]
            rows = database.execute_sql(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
            found[table] = sorted(
                ({name: plain(value) for name, value in zip(columns, row, strict=True)} for row in rows), key=str
            )
    return found


def test_a_restore_equals_the_backed_up_database(
    database: peewee.Database, target: peewee.Database, tmp_path: Path
) -> None:
    fill(database)
    reports: list[tuple[int, int, str]] = []
    written = dump(database, tmp_path / "b", ["valuation_records"], lambda *report: reports.append(report))
    assert (written.rows["sytq_tasks"], written.rows["valuation_records"]) == (1200, 9)
    assert check(tmp_path / "b") == written
    assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)
    assert reports
    assert {of for _, of, _ in reports} == {written.total}
    assert restore(tmp_path / "b", target, quiet) == written
    assert "sytq_migrations" not in written.rows
    assert content(target, list(written.rows)) == content(database, list(written.rows))


def test_a_backup_is_a_consistent_snapshot(database: peewee.Database, tmp_path: Path) -> None:
    fill(database)
    before = content(database, ["sytq_tasks", "valuation_records"])
    meddled = False

    def meddle(done: int, of: int, table: str) -> None:
        """Another connection writes without waiting while the dump reads."""
        nonlocal meddled
        if not meddled:
            meddled = True
            other = open_database(url)
            with other.connection_context(), other.atomic():
                other.execute_sql("UPDATE sytq_tasks SET state = 'cancelled'")
                other.execute_sql("DELETE FROM valuation_records")
            other.close_all()  # type: ignore[attr-defined]

    url = _url(database)
    written = dump(database, tmp_path / "b", ["valuation_records"], meddle)
    assert meddled
    assert written.rows["valuation_records"] == len(before["valuation_records"])
    fresh = open_database(f"sqlite:///{tmp_path / 'fresh.db'}")
    restore(tmp_path / "b", fresh, quiet)
    assert content(fresh, ["sytq_tasks", "valuation_records"]) == before


def _url(database: peewee.Database) -> str:
    if isinstance(database, peewee.SqliteDatabase):
        return f"sqlite:///{database.database}"
    given = database.connect_params
    return f"mysql://root@127.0.0.1:{given['port']}/{database.database}"


@pytest.fixture
def backup(tmp_path: Path) -> Iterator[Path]:
    database = next(made := opened(f"sqlite:///{tmp_path / 'source.db'}"))
    fill(database, 50)
    dump(database, tmp_path / "whole", ["valuation_records"], quiet)
    yield tmp_path / "whole"
    made.close()  # type: ignore[attr-defined]


def test_a_truncated_backup_is_refused_and_writes_nothing(backup: Path, tmp_path: Path) -> None:
    whole = backup.read_bytes()
    lines = gzip.decompress(whole).splitlines(keepends=True)
    broken = [whole[:size] for size in (0, 1, 20, len(whole) // 2, len(whole) - 1)]
    # Valid gzip, cut at a line: one row is missing, or the end, or there is one row too many.
    broken += [gzip.compress(b"".join(part)) for part in ([], lines[:1], lines[:-1], lines[:9], lines[1:])]
    broken += [gzip.compress(b"".join([*lines[:5], *lines[6:]])), gzip.compress(b"".join([*lines, lines[-1]]))]
    broken += [b"no gzip at all", gzip.compress(b"no json\n"), gzip.compress(b"7\n"), gzip.compress(b'{"end": 1}\n')]
    target = open_database(f"sqlite:///{tmp_path / 'target.db'}")
    for number, data in enumerate(broken):
        (tmp_path / "broken").write_bytes(data)
        with pytest.raises(BackupBroken):
            check(tmp_path / "broken")
        with pytest.raises(BackupBroken):
            restore(tmp_path / "broken", target, quiet)
        assert target.get_tables() == [], number


def test_a_changed_character_in_a_backup_is_detected(backup: Path, tmp_path: Path) -> None:
    text = gzip.decompress(backup.read_bytes())
    (tmp_path / "changed").write_bytes(gzip.compress(text.replace(b'"queued"', b'"cancel"', 1)))
    with pytest.raises(BackupBroken, match="checksum"):
        check(tmp_path / "changed")


def test_a_restore_into_a_database_with_rows_is_refused(backup: Path, target: peewee.Database) -> None:
    make_tables(target)
    with target.connection_context():
        target.execute_sql("INSERT INTO valuation_records (id) VALUES (1)")
    with pytest.raises(BackupBroken, match="table 'valuation_records' has rows"):
        restore(backup, target, quiet)
    assert content(target, ["sytq_tasks"]) == {"sytq_tasks": []}


def test_a_failed_restore_leaves_nothing_and_can_be_repeated(backup: Path, target: peewee.Database) -> None:
    def fail(done: int, of: int, table: str) -> None:
        raise KeyboardInterrupt

    many = backup.with_name("many")
    source = next(opened(f"sqlite:///{backup.with_name('source2.db')}"))
    fill(source, 600)
    written = dump(source, many, ["valuation_records"], quiet)
    with pytest.raises(KeyboardInterrupt):
        restore(many, target, fail)
    assert not any(content(target, list(written.rows)).values())
    restore(many, target, quiet)
    assert sum(map(len, content(target, list(written.rows)).values())) == written.total


def test_a_backup_of_a_newer_version_is_refused(backup: Path, tmp_path: Path, target: peewee.Database) -> None:

    head, *lines = gzip.decompress(backup.read_bytes()).splitlines(keepends=True)
    header = json.loads(head)
    header["migrations"].append("9999_later")
    lines = [json.dumps(header).encode() + b"\n", *lines[:-1]]
    rows = {name: count for name, count in check(backup).rows.items()}
    end = {"end": {"rows": rows, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}}
    (tmp_path / "newer").write_bytes(gzip.compress(b"".join(lines) + json.dumps(end).encode()))
    with pytest.raises(BackupBroken, match="newer sytq"):
        restore(tmp_path / "newer", target, quiet)


def test_a_callers_table_is_restored_on_the_same_engine(
    database: peewee.Database, target: peewee.Database, tmp_path: Path
) -> None:
    with database.connection_context():
        database.execute_sql(
            "CREATE TABLE orders (id BIGINT PRIMARY KEY, `select` VARCHAR(9), picture BLOB, n DECIMAL(9,2))"
        )
        database.execute_sql("CREATE INDEX orders_by_select ON orders (`select`)")
        mark = "?" if isinstance(database, peewee.SqliteDatabase) else "%s"
        database.execute_sql(f"INSERT INTO orders VALUES (1, 'a', {mark}, 1.25)", (bytes(range(256)),))
    dump(database, tmp_path / "b", ["orders"], quiet)
    if type(database) is not type(target):
        with pytest.raises(BackupBroken, match="table 'orders' is not there, and the backup is of"):
            restore(tmp_path / "b", target, quiet)
        with target.connection_context():
            target.execute_sql(
                "CREATE TABLE orders (id BIGINT PRIMARY KEY, `select` VARCHAR(9), picture BLOB, n DECIMAL(9,2))"
            )
    restore(tmp_path / "b", target, quiet)
    with target.connection_context():
        [(id, word, picture, n)] = target.execute_sql("SELECT id, `select`, picture, n FROM orders").fetchall()
        indexes = {index.name for index in target.get_indexes("orders")}
    assert (id, word, bytes(picture), float(n)) == (1, "a", bytes(range(256)), 1.25)
    assert type(database) is not type(target) or "orders_by_select" in indexes


def test_a_missing_table_is_named(database: peewee.Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table 'nosuch' is not in the database"):
        dump(database, tmp_path / "b", ["nosuch"], quiet)


def test_a_backup_is_readable_only_by_its_owner(backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    assert isinstance(check(backup), Summary)


def test_a_backup_restores_the_tables_of_a_plugin(
    database: peewee.Database, target: peewee.Database, tmp_path: Path
) -> None:
    made = "CREATE TABLE sytq_shop (id INTEGER PRIMARY KEY, town VARCHAR(9))"
    (tmp_path / "0001_shop.py").write_text(f"def up(migrator, db):\n    db.execute_sql('{made}')\n")
    shop = plugins.Plugin("shop", migrations=tmp_path)
    migrate(database, [shop])
    with database.connection_context():
        database.execute_sql("INSERT INTO sytq_shop VALUES (1, 'Wells')")
    assert not [name for name in dump(database, tmp_path / "b", [], quiet).rows if "migrations" in name]
    with pytest.raises(BackupBroken, match="'sytq_shop' is not there: install the plugin that makes it"):
        restore(tmp_path / "b", target, quiet)
    restore_with(tmp_path / "b", target, quiet, [*PLUGINS, shop])
    assert content(target, ["sytq_shop"]) == {"sytq_shop": [{"id": 1, "town": "Wells"}]}
    assert pending(target, [*PLUGINS, shop]) == []


def test_unused_tables_of_a_missing_plugin_are_left_out(
    database: peewee.Database, target: peewee.Database, tmp_path: Path
) -> None:
    dump(database, tmp_path / "b", [], quiet)
    restore_with(tmp_path / "b", target, quiet)
    assert {"sytq_spend", "sytq_failing_hosts", "valuation_records"}.isdisjoint(target.get_tables())
