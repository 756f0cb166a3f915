"""Readiness asks of the database what a submission asks of it, at most once a second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import peewee
import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ids import new_id
from sytq.ledger.database import open_database
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.migrations import migrate
from sytq.service import ledger_check
from sytq.service.ledger_check import OK, LedgerCheck, look
from tests.servers import MySQLServer


def submission(database: peewee.Database, payload: str = "{}") -> str:
    """What the database says to a submission: "ok" or its refusal."""
    try:
        Ledger(database).accept([NewTask(new_id(), "webhook", "webhook", "normal", payload)])
    except (DatabaseUnavailable, peewee.PeeweeException) as error:
        return str(error)
    return OK


@pytest.fixture
def plain(own_mysql: MySQLServer) -> Iterator[peewee.Database]:
    """A database of a user without special rights, as root may do anything at any time."""
    url = own_mysql.create_database("plain")
    migrate(open_database(url))
    for host in ("localhost", "127.0.0.1"):
        own_mysql.execute(f"CREATE USER plain@'{host}'")
        own_mysql.execute(f"GRANT ALL ON plain.* TO plain@'{host}'")
    database = open_database(url.replace("root@", "plain@"), timeout=1.0)
    yield database
    database.close_all()  # type: ignore[attr-defined]


def test_ready_says_what_a_submission_would_be_told(plain: peewee.Database, own_mysql: MySQLServer) -> None:
    hosts = ("localhost", "127.0.0.1")
    situations: dict[str, tuple[list[str], list[str]]] = {
        "read-only option": (["SET GLOBAL read_only = ON"], ["SET GLOBAL read_only = OFF"]),
        "INSERT command denied to the user": (
            [f"REVOKE ALL ON plain.* FROM plain@'{host}'" for host in hosts]
            + [f"GRANT SELECT, UPDATE, DELETE ON plain.* TO plain@'{host}'" for host in hosts],
            [f"GRANT ALL ON plain.* TO plain@'{host}'" for host in hosts],
        ),
        "doesn't exist": (
            ["RENAME TABLE plain.sytq_tasks TO plain.elsewhere"],
            ["RENAME TABLE plain.elsewhere TO plain.sytq_tasks"],
        ),
        "Unknown column": (
            ["ALTER TABLE plain.sytq_tasks RENAME COLUMN payload TO body"],
            ["ALTER TABLE plain.sytq_tasks RENAME COLUMN body TO payload"],
        ),
    }
    assert (look(plain, list), submission(plain)) == (OK, OK)
    for said, (begin, end) in situations.items():
        for statement in begin:
            own_mysql.execute(statement)
        plain.close_all()  # type: ignore[attr-defined]
        for allocate in (False, True):
            state = look(plain, list, allocate=allocate)
            assert said in state and "plain" not in state.partition("denied")[2].partition("for table")[0], state
        assert submission(plain) != OK, said
        for statement in end:
            own_mysql.execute(statement)
        plain.close_all()  # type: ignore[attr-defined]
        assert (look(plain, list), submission(plain)) == (OK, OK), said
    with contextlib.closing(own_mysql.connect("plain")) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLES sytq_tasks READ")  # a backup's, or an ALTER's
        assert "does not answer" in look(plain, list, allocate=False)
        assert "does not answer" in submission(plain)
    assert (look(plain, list), submission(plain)) == (OK, OK)
    assert own_mysql.execute("SELECT COUNT(*) FROM plain.sytq_tasks WHERE type = 'readiness'") == [(0,)]


@pytest.mark.mysql
def test_ready_finds_a_full_disk_and_leaves_the_server_alive() -> None:
    # A tablespace of a fixed size is full as a disk is, and needs no disk of its own.
    server = MySQLServer(["--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:24M"])
    try:
        server.start()
        url = server.create_database("small")
        database = open_database(url)
        migrate(database)
        assert look(database, list) == OK
        server.execute("CREATE TABLE small.filler (body LONGBLOB)")
        # Rows that fit into a page: MariaDB ends itself where it is out of room for the pages of a larger one.
        for rows in (40, 1):
            with contextlib.suppress(Exception):
                while True:
                    server.execute("INSERT INTO small.filler VALUES " + ", ".join(["(REPEAT('x', 7500))"] * rows))
        refused = 0
        for _ in range(300):
            refused = refused + 1 if submission(database, '"' + "x" * 1000 + '"') != OK else 0
            if refused == 3:
                break
        assert refused == 3
        assert look(database, list, allocate=False) == OK, "an update in place needs no disk"
        for _ in range(20):
            assert "is full (error 1114)" in look(database, list)
        assert server.running
    finally:
        server.remove()


def test_ready_finds_a_full_disk_below_sqlite(sqlite: peewee.Database) -> None:
    # One connection, whose file may not grow; it has no free pages.
    sqlite.execute_sql("VACUUM")
    (pages,) = sqlite.execute_sql("PRAGMA page_count").fetchone()
    sqlite.execute_sql(f"PRAGMA max_page_count = {pages}")
    assert "full" in look(sqlite, list)
    assert "full" in submission(sqlite, '"' + "x" * 20_000 + '"')
    sqlite.execute_sql("PRAGMA max_page_count = 1000000")
    assert (look(sqlite, list), submission(sqlite)) == (OK, OK)


@pytest.fixture
def sqlite(tmp_path: object) -> Iterator[peewee.Database]:
    database = open_database(f"sqlite:///{tmp_path}/sytq.db", pool=4)
    migrate(database)
    yield database
    database.close_all()  # type: ignore[attr-defined]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each look allocates."""
    seen: list[bool] = []
    insert = ledger_check.try_to_insert

    def counted(database: peewee.Database, *, allocate: bool) -> None:
        seen.append(allocate)
        time.sleep(0.02)
        insert(database, allocate=allocate)

    monkeypatch.setattr(ledger_check, "try_to_insert", counted)
    return seen


def ask(check: LedgerCheck, seconds: float, probers: int = 3) -> list[str]:
    states: list[str] = []

    def probe() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states.append(check.state())
            time.sleep(0.01)

    threads = [threading.Thread(target=probe) for _ in range(probers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return states


def test_three_probers_cost_one_look_a_second(sqlite: peewee.Database, looks: list[bool]) -> None:
    began = time.monotonic()
    states = ask(LedgerCheck(sqlite, list), 1.5)
    assert set(states) == {OK} and len(states) > 20
    assert len(looks) <= 1 + (time.monotonic() - began), looks
    assert looks[0] and not any(looks[1:]), "only the first one allocates"


def test_written_submissions_spare_looks_and_refused_ones_ask(sqlite: peewee.Database, looks: list[bool]) -> None:
    check = LedgerCheck(sqlite, list)
    check.accepted()
    assert (check.state(), looks) == (OK, [True]), "a submission proves nothing to a check that never looked"
    for _ in range(15):
        check.accepted()
        assert check.state() == OK
        time.sleep(0.1)
    assert looks == [True]
    check.refused()
    assert (check.state(), looks) == (OK, [True, True]), "a refusal about one caller's task ends no readiness"
    assert (check.state(), looks) == (OK, [True, True])


def test_a_bad_answer_is_not_kept(sqlite: peewee.Database) -> None:
    answers: list[Callable[[], list[str]]] = [lambda: ["0001"], list]
    check = LedgerCheck(sqlite, lambda: answers.pop(0)())
    assert check.state() == "migrations pending: 0001 (run `sytq db migrate`)"
    check.accepted()
    assert check.state() == OK
