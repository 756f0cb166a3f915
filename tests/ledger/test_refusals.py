"""What real refusals of MariaDB and SQLite mean: run again, a fault of the statement or table, or not now."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import peewee
import pymysql
import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ledger import refusals
from sytq.ledger.database import open_database, read, transact
from tests.servers import MySQLServer

#: A statement that the table refuses, and the numbers that MariaDB and MySQL give it.
FAULTS = {
    "INSERT INTO t (id) VALUES (1)": (1062, 1062),
    "INSERT INTO t (id, short) VALUES (2, '123456')": (1406, 1406),
    "INSERT INTO t (id, latin) VALUES (2, '价')": (1366, 1366),
    "INSERT INTO t (id, small) VALUES (2, 300)": (1264, 1264),
    "INSERT INTO t (id, small) VALUES (2, 'x')": (1366, 1366),
    "INSERT INTO t (id, at) VALUES (2, '2026-13-01')": (1292, 1292),
    "INSERT INTO t (id, needed) VALUES (2, NULL)": (1048, 1048),
    "INSERT INTO strict_t (id) VALUES (1)": (1364, 1364),
    "INSERT INTO child (id, t) VALUES (1, 99)": (1452, 1452),
    "INSERT INTO checked (id) VALUES (0)": (4025, 3819),
    "INSERT INTO refusing (id) VALUES (1)": (1644, 1644),
    "INSERT INTO t (id) VALUES (2, 3)": (1136, 1136),
    "UPDATE t SET nothing = 1": (1054, 1054),
    "UPDATE nothing SET id = 1": (1146, 1146),
    "UPDAT t SET id = 1": (1064, 1064),
    "UPDATE t SET made = 1": (1906, 3105),
}


@pytest.fixture
def mysql(mysql_url: str) -> Iterator[peewee.Database]:
    database = open_database(mysql_url, timeout=2)
    with database.connection_context():
        for statement in (
            "CREATE TABLE t (id INT PRIMARY KEY, short VARCHAR(5), latin VARCHAR(5) CHARACTER SET latin1,"
            " small TINYINT, at DATETIME, needed INT NOT NULL DEFAULT 1, made INT AS (id + 1))",
            "CREATE TABLE strict_t (id INT PRIMARY KEY, needed INT NOT NULL)",
            "CREATE TABLE child (id INT PRIMARY KEY, t INT, FOREIGN KEY (t) REFERENCES t (id))",
            "CREATE TABLE checked (id INT PRIMARY KEY, CHECK (id > 0))",
            "CREATE TABLE refusing (id INT PRIMARY KEY)",
            "CREATE TRIGGER no BEFORE INSERT ON refusing FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'",
            "CREATE TABLE filling (id INT PRIMARY KEY AUTO_INCREMENT, a CHAR(255)) ENGINE = MEMORY MAX_ROWS = 2",
            "INSERT INTO t (id) VALUES (1)",
        ):
            database.execute_sql(statement)
    yield database
    database.close_all()  # type: ignore[attr-defined]


def test_statement_that_can_never_succeed_is_a_fault(mysql: peewee.Database) -> None:
    for statement, codes in FAULTS.items():
        with pytest.raises(peewee.PeeweeException) as refused:
            transact(mysql, lambda text=statement: mysql.execute_sql(text))
        assert refusals.verdict(refused.value) == "fault", statement
        assert refusals.code_of(refused.value) in codes, statement


def test_refusals_that_pass_are_told_with_their_number(
    mysql: peewee.Database, mysql_server: MySQLServer, mysql_url: str
) -> None:
    name = str(mysql.database)
    for user in ("limited", "hourly", "poor"):
        mysql_server.execute(f"CREATE OR REPLACE USER {user}@'127.0.0.1'")
    mysql_server.execute(f"GRANT ALL ON {name}.* TO limited@'127.0.0.1' WITH MAX_USER_CONNECTIONS 1")
    mysql_server.execute(f"GRANT ALL ON {name}.* TO hourly@'127.0.0.1' WITH MAX_QUERIES_PER_HOUR 1")
    mysql_server.execute(f"GRANT SELECT ON {name}.* TO poor@'127.0.0.1'")

    def said(statement: str, url: str = mysql_url) -> str:
        database = open_database(url, timeout=2)
        try:
            with pytest.raises(DatabaseUnavailable) as refused:
                transact(database, lambda: [database.execute_sql(statement) for _ in range(100_000)])
            return str(refused.value)
        finally:
            database.close_all()  # type: ignore[attr-defined]

    def of(user: str, database: str = name) -> str:
        return mysql_server.url(database).replace("root@", f"{user}@")

    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=mysql_server.port, user="limited", database=name)):
        assert "max_user_connections" in said("SELECT 1", of("limited"))  # 1226, of MySQL 1203
    assert said("SELECT 1", of("hourly")).endswith("(error 1226)")
    assert said("UPDATE t SET small = 1", of("poor")).endswith("(error 1142)")
    assert "Access denied" in said("SELECT 1", of("nobody"))
    assert "Unknown database" in said("SELECT 1", of("root", "nowhere"))
    assert said("INSERT INTO filling (a) VALUES ('x')").endswith("The table 'filling' is full (error 1114)")
    if "MariaDB" in mysql_server.execute("SELECT VERSION()")[0][0]:
        assert said("SET STATEMENT max_statement_time = 0.01 FOR SELECT SLEEP(1)").endswith("(error 1969)")
    assert said("KILL QUERY CONNECTION_ID()").endswith("(error 1317)")
    mysql_server.execute("SET GLOBAL read_only = ON")
    try:
        mysql_server.execute(f"GRANT ALL ON {name}.* TO poor@'127.0.0.1'")
        assert said("UPDATE t SET small = 1", of("poor")).endswith("(error 1290)")
    finally:
        mysql_server.execute("SET GLOBAL read_only = OFF")


def test_too_many_connections_pass(mysql: peewee.Database, mysql_server: MySQLServer, mysql_url: str) -> None:
    (limit,) = mysql_server.execute("SELECT @@max_connections")[0]
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(contextlib.closing(mysql_server.connect()))
        root.cursor().execute("SET GLOBAL max_connections = 10")
        stack.callback(lambda: root.cursor().execute(f"SET GLOBAL max_connections = {limit}"))
        database = open_database(mysql_url, timeout=2)
        with contextlib.suppress(pymysql.err.OperationalError):
            for _ in range(12):
                stack.enter_context(contextlib.closing(mysql_server.connect()))
        with pytest.raises(DatabaseUnavailable, match="Too many connections"):
            read(database, lambda: database.execute_sql("SELECT 1"))


def test_killed_connection_passes(mysql: peewee.Database, mysql_server: MySQLServer) -> None:
    def work() -> None:
        (session,) = mysql.execute_sql("SELECT CONNECTION_ID()").fetchone()
        mysql_server.execute(f"KILL {session}")
        mysql.execute_sql("UPDATE t SET small = 2")

    with pytest.raises(DatabaseUnavailable, match="the database does not answer"):
        transact(mysql, work)


def test_lock_wait_runs_the_transaction_again(mysql: peewee.Database, mysql_server: MySQLServer) -> None:
    tries = []

    def work() -> None:
        mysql.execute_sql("SET SESSION innodb_lock_wait_timeout = 0")
        tries.append(len(tries))
        if len(tries) == 2:
            unlock.set()
            holder.join(60)
        mysql.execute_sql("UPDATE t SET small = 3 WHERE id = 1")

    locked, unlock = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.closing(mysql_server.connect(str(mysql.database))) as other:
            other.begin()
            other.cursor().execute("UPDATE t SET small = 4 WHERE id = 1")
            locked.set()
            unlock.wait(60)
            other.commit()

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(60)
    transact(mysql, work)
    assert tries == [0, 1]


def test_deadlock_within_a_savepoint_runs_the_transaction_again(mysql: peewee.Database) -> None:
    with mysql.connection_context():
        mysql.execute_sql("CREATE PROCEDURE deadlock() SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213")
    tries = []

    def work() -> None:
        tries.append(len(tries))
        with mysql.atomic():
            if len(tries) == 1:
                mysql.execute_sql("ROLLBACK")  # as the server does, with all savepoints
                mysql.execute_sql("CALL deadlock()")

    transact(mysql, work)
    assert tries == [0, 1]


#: Of SQLite: a pragma and a statement, and the verdict.
OF_SQLITE = [
    ("PRAGMA query_only = 1", "INSERT INTO t (id) VALUES (2)", "readonly"),
    ("PRAGMA max_page_count = 1", "INSERT INTO t (id, a) VALUES (2, randomblob(1000000))", "full"),
]


def test_a_connection_that_was_lost_before_is_named_as_such(mysql: peewee.Database) -> None:
    with mysql.connection_context():
        mysql.connection().close()
        with pytest.raises(peewee.InterfaceError) as refused:
            mysql.execute_sql("SELECT 1")
    assert refusals.said(refused.value) == "the database does not answer: the connection was lost"


def test_sqlite_that_is_read_only_full_or_broken_passes(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 's.db'}")
    with database.connection_context():
        database.execute_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INTEGER NOT NULL DEFAULT 1)")
    for pragma, statement, word in OF_SQLITE:
        with database.connection_context():
            database.execute_sql(pragma)
            with pytest.raises(DatabaseUnavailable, match=word):
                transact(database, lambda text=statement: database.execute_sql(text))
        database.close_all()  # type: ignore[attr-defined]
    for statement in (
        "INSERT INTO t (id, b) VALUES (3, NULL)",
        "INSERT INTO t (id) VALUES ('x')",
        "INSERT INTO nothing (id) VALUES (1)",
        "UPDATE t SET nothing = 1",
        "UPDAT t",
    ):
        with pytest.raises(peewee.PeeweeException):
            transact(database, lambda text=statement: database.execute_sql(text))
    database.close_all()  # type: ignore[attr-defined]
    for path in tmp_path.glob("s.db*"):
        path.write_bytes(b"not a database at all, but long enough to be looked at as one" * 100)
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        read(database, lambda: database.execute_sql("SELECT * FROM t"))


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\xff",
        b"\x05\x00\x00\x00\x0a5.5",
        b"\x17\x00\x00\x00\xff\x10\x04Too many connections",
    ],
)
def test_what_is_no_database_passes(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.sendall(greeting)

        threading.Thread(target=greet).start()
        database = open_database(f"mysql://sytq@127.0.0.1:{server.getsockname()[1]}/sytq", timeout=2)
        with pytest.raises(DatabaseUnavailable):
            read(database, lambda: database.execute_sql("SELECT 1"))


def test_argument_that_the_driver_cannot_send_is_no_refusal(mysql: peewee.Database) -> None:
    for value, error in (({"a": 1}, TypeError), ("\ud83d", UnicodeError)):
        with pytest.raises(error):
            transact(mysql, lambda value=value: mysql.execute_sql("UPDATE t SET short = %s", (value,)))


def test_what_a_proxy_says_without_a_sqlstate_passes() -> None:
    said = pymysql.err.OperationalError(9001, "Max connect timeout reached while reaching hostgroup 0")
    assert refusals.verdict(peewee.OperationalError(said, *said.args)) == "not now"
    fault = pymysql.err.DataError(1406, "Data too long for column 'a' at row 1")
    assert refusals.verdict(peewee.DataError(fault, *fault.args)) == "fault"
    broken = pymysql.err.InternalError("Packet sequence number wrong - got 1 expected 2")
    assert refusals.verdict(peewee.InternalError(broken, *broken.args)) == "not now"
    closed = pymysql.err.ProgrammingError("Cursor closed")
    assert refusals.verdict(peewee.ProgrammingError(closed, *closed.args)) == "not now"
