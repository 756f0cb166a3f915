"""A backup is a consistent snapshot, restores equal on either engine, and is complete or refused."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
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
from sytq.ledger.backup.format import Header, Table, create
from sytq.ledger.backup.restore import restore as restore_with
from sytq.ledger.backup.tables import run, statements
from sytq.ledger.database import is_mysql, open_database, transact
from sytq.ledger.failures import FailureRollup, Failures
from sytq.ledger.figures import Figures
from sytq.ledger.ledger import Ledger
from sytq.ledger.migrations import migrate, pending
from sytq.ledger.models import Attempt, SearchEntry, Step, Task
from sytq.ledger.query import parse
from sytq.ledger.rollup import Rollup
from sytq.ledger.saved_views import SavedViews
from sytq.ledger.search import Search
from sytq.ledger.search_upkeep import SearchUpkeep
from sytq.ledger.sessions import Login, Sessions
from sytq.ledger.values import utcnow
from tests.tables import make_tables
from tests.terminal import clean_environ, sytq

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


def test_a_restored_ledger_answers_searches_and_charts_by_itself(
    database: peewee.Database, target: peewee.Database, tmp_path: Path
) -> None:
    at = utcnow() - dt.timedelta(minutes=20)
    old = at - dt.timedelta(days=20)
    for number, moment in enumerate([at, at, old]):
        ended = {"state": "dead" if number else "succeeded", "created_at": moment, "finished_at": moment}
        row = {"id": new_id(), "type": "t", "payload": '{"a": 7}', "metadata": '{"b": "c"}', **ended}
        transact(database, Task.insert(row).execute)
    upkeep = SearchUpkeep(database)
    upkeep.declare(["payload.a"])
    for kept in (partial(upkeep.fill, 500), FailureRollup(database).advance, Rollup(database).advance):
        while kept():
            pass
    SavedViews(database).save("ops", "mine", "metadata.b:c", "ops")
    # What only the figures know any more: the cleanup has deleted it.
    transact(database, Task.delete().where(Task.state == "succeeded").execute)
    dump(database, tmp_path / "b", [], quiet)
    restore(tmp_path / "b", target, quiet)
    Ledger(target)  # binds the models

    def answers() -> list[Any]:
        look, day = Search(target), Figures(target).chart("day").values()
        searches = [
            look.count(parse(query)).number for query in ("metadata.b:c", "payload.a:7", "state:dead payload.a:7")
        ]
        ended = sum(one.succeeded for one in day), sum(one.dead for one in day)
        (cause,) = Failures(target).causes("all")
        return [searches, ended, cause.tasks, [view.name for view in SavedViews(target).visible("ops")]]

    expected = [[2, 2, 2], (1, 1), 2, ["mine"]]
    assert answers() == expected
    upkeep = SearchUpkeep(target)
    upkeep.declare(["payload.a"])
    while upkeep.fill(1):
        assert answers() == expected
    for kept in (FailureRollup(target).advance, Rollup(target).advance):
        while kept():
            pass
    assert answers() == expected
    assert {row.task_id for row in SearchEntry.select()} == {row.id for row in Task.select()}


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
    with target.connection_context():  # of another program, or of an older version: not even migrated
        target.execute_sql("CREATE TABLE valuation_records (id BIGINT PRIMARY KEY)")
        target.execute_sql("INSERT INTO valuation_records (id) VALUES (1)")
    with pytest.raises(BackupBroken, match="table 'valuation_records' has rows"):
        restore(backup, target, quiet)
    assert target.get_tables() == ["valuation_records"]


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


def rewritten(backup: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a backup with another header."""
    head, *lines = gzip.decompress(backup.read_bytes()).splitlines(keepends=True)
    header = json.loads(head)
    change(header)
    lines = [json.dumps(header).encode() + b"\n", *lines[:-1]]
    end = {"end": {"rows": check(backup).rows, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}}
    copy = backup.with_name(f"{backup.name}.copy")
    copy.write_bytes(gzip.compress(b"".join(lines) + json.dumps(end).encode()))
    return copy


@pytest.mark.parametrize("newer", ["9999_later", "llm/9999_later"])
def test_a_backup_of_a_newer_version_is_refused_untouched(backup: Path, tmp_path: Path, newer: str) -> None:
    plugin, _, name = newer.rpartition("/")
    copy = rewritten(
        backup, lambda header: (header["plugins"][plugin] if plugin else header["migrations"]).append(name)
    )
    target = open_database(f"sqlite:///{tmp_path / 'target.db'}")
    with pytest.raises(BackupBroken, match=rf"of a newer sytq or plugin \(migration {newer}\)"):
        restore(copy, target, quiet)
    assert target.get_tables() == []
    checked = sytq("restore", "--check", str(copy), environ=clean_environ())
    assert ("newer sytq" in checked.stderr) is (plugin == "")  # without a configuration no plugin is known


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


def test_a_restore_brings_no_session_back(database: peewee.Database, tmp_path: Path, target: peewee.Database) -> None:
    sessions = Sessions(database, {"ada": hashlib.sha256(b"secret").hexdigest()}, max_age=3600, idle=3600)
    token = sessions.begin(Login("ada"), "secret", "ada")
    assert sessions.verify(token) is not None
    path = tmp_path / "backup"
    dump(database, path, [], quiet)
    restore(path, target, quiet)
    assert target.execute_sql("SELECT COUNT(*) FROM sytq_sessions").fetchone() == (0,)


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


CALLERS = """CREATE TABLE valuation_records (
    id BIGINT PRIMARY KEY, status VARCHAR(20), user_message TEXT, report TEXT, progress VARCHAR(30),
    tenant VARCHAR(9) NOT NULL, words INT GENERATED ALWAYS AS (LENGTH(report)) VIRTUAL,
    label VARCHAR(40) GENERATED ALWAYS AS (UPPER(tenant)) STORED, `100%` INT DEFAULT 3)"""
OF_CALLER = "SELECT id, tenant, report, words, label, `100%` FROM valuation_records ORDER BY id"


def callers_own(database: peewee.Database) -> None:
    """A caller's table with columns of its own, some of them generated, and without some of the contract's."""
    cursor = database.cursor()
    cursor.execute("DROP TABLE IF EXISTS valuation_records")
    cursor.execute(CALLERS)
    cursor.execute("INSERT INTO valuation_records (id, tenant, report) VALUES (1, 'tea', 'four'), (2, 'rum', NULL)")


@pytest.mark.parametrize("migrated", [False, True])
def test_the_callers_table_of_the_backup_replaces_a_migrations(
    database: peewee.Database, tmp_path: Path, request: pytest.FixtureRequest, migrated: bool
) -> None:
    target = _another(database, tmp_path, request)
    with database.connection_context():
        callers_own(database)
        before = run(database, OF_CALLER).fetchall()
        made = statements(database, "valuation_records")
    if migrated:
        make_tables(target)
    dump(database, tmp_path / "b", ["valuation_records"], quiet)
    restore(tmp_path / "b", target, quiet)
    with target.connection_context():
        assert run(target, OF_CALLER).fetchall() == before
        assert statements(target, "valuation_records") == made
    assert pending(target, PLUGINS) == []


def test_a_callers_own_newer_table_stays_and_takes_the_rows(
    database: peewee.Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = _another(database, tmp_path, request)
    for one, new in ((database, ""), (target, ", `since` INT DEFAULT 7")):
        with one.connection_context():
            callers_own(one)
            if new:
                one.cursor().execute("DROP TABLE valuation_records")
                one.cursor().execute(CALLERS[:-1] + new + ")")
    dump(database, tmp_path / "b", ["valuation_records"], quiet)
    restore(tmp_path / "b", target, quiet)
    with target.connection_context():
        rows = target.execute_sql("SELECT id, tenant, words, since FROM valuation_records ORDER BY id").fetchall()
    assert list(rows) == [(1, "tea", 4, 7), (2, "rum", None, 7)]


def test_backups_of_older_versions_are_restored(
    database: peewee.Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Their headers have no callers, their rows have the values of generated columns, their triggers come first."""
    target = _another(database, tmp_path, request)
    with database.connection_context():
        callers_own(database)
        before = run(database, OF_CALLER).fetchall()
        made = statements(database, "valuation_records")
    names = ["id", "tenant", "report", "words", "label", "100%"]
    applied = applied_to(database)
    header = Header("2026-01-01T00:00:00.000Z", _engine(database), applied, [
        Table("valuation_records", names, made)], 2, [], {}, [])  # fmt: skip
    if _engine(database) == "sqlite":
        made.insert(0, "CREATE TRIGGER t AFTER INSERT ON valuation_records BEGIN DELETE FROM valuation_records; END")
    with create(tmp_path / "new", header) as writer:
        writer.begin("valuation_records")
        for row in before:
            writer.row(row)
        writer.finish()

    def older(header: dict[str, Any]) -> None:
        for key in ("callers", "plugins", "notes"):
            del header[key]

    restore(rewritten(tmp_path / "new", older), target, quiet)
    with target.connection_context():
        assert run(target, OF_CALLER).fetchall() == before


def applied_to(database: peewee.Database) -> list[str]:
    with database.connection_context():
        return [name for (name,) in database.execute_sql("SELECT name FROM sytq_migrations").fetchall()]


def _engine(database: peewee.Database) -> str:
    return "mysql" if is_mysql(database) else "sqlite"


def _another(database: peewee.Database, folder: Path, request: pytest.FixtureRequest) -> peewee.Database:
    """Another empty database of the same engine."""
    if not is_mysql(database):
        return open_database(f"sqlite:///{folder / 'another.db'}")
    server = request.getfixturevalue("mysql_server")
    name = f"a{os.urandom(6).hex()}"
    made = open_database(server.create_database(name))
    request.addfinalizer(lambda: (made.close_all(), server.drop_database(name)))  # type: ignore[attr-defined]
    return made


def test_migrations_newer_than_the_backup_see_its_rows(tmp_path: Path) -> None:
    """A later version fills a new column from an old one: it must not run on the empty table."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    made = "CREATE TABLE shop_sales (id INTEGER PRIMARY KEY, town VARCHAR(9))"
    (folder / "0001_sales.py").write_text(f"def up(migrator, db):\n    db.execute_sql({made!r})\n")

    class Sale(peewee.Model):
        town = peewee.CharField()
        key = peewee.CharField()

        class Meta:
            table_name = "shop_sales"

    shop = plugins.Plugin("shop", models=(Sale,), migrations=folder)
    source, target = (open_database(f"sqlite:///{tmp_path / name}") for name in ("source.db", "target.db"))
    migrate(source, [shop])
    with source.connection_context():
        source.execute_sql("INSERT INTO shop_sales VALUES (1, 'Wells')")
    dump(source, tmp_path / "b", [], quiet, ["shop_sales"])
    (folder / "0002_key.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('ALTER TABLE shop_sales ADD COLUMN key VARCHAR(9)')\n"
        "    db.execute_sql('UPDATE shop_sales SET key = upper(town)')\n"
    )
    restore_with(tmp_path / "b", target, quiet, [shop])
    assert content(target, ["shop_sales"]) == {"shop_sales": [{"id": 1, "town": "Wells", "key": "WELLS"}]}
    assert pending(target, [shop]) == []
