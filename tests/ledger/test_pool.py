"""The pool of connections to MySQL: which commands it sends, and when."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import peewee
import pytest

from sytq.errors import DatabaseUnavailable
from sytq.ledger.database import insert_ignore, open_database, read, transact
from tests.proxy import Proxy
from tests.servers import MySQLServer, poll

pytestmark = pytest.mark.mysql


@pytest.fixture
def database(mysql_url: str) -> Iterator[peewee.Database]:
    database = open_database(mysql_url)
    transact(database, lambda: database.execute_sql("CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT) ENGINE=InnoDB"))
    yield database
    database.close_all()


def asked(database: peewee.Database, what: str) -> int:
    """How often the session of the pooled connection has sent this command."""
    rows = read(database, lambda: list(database.execute_sql(f"SHOW SESSION STATUS LIKE 'Com_{what}'")))
    return int(rows[0][1])


def session(database: peewee.Database) -> int:
    rows: list[tuple[int]] = read(database, lambda: list(database.execute_sql("SELECT CONNECTION_ID()")))
    return rows[0][0]


def test_a_transaction_is_only_begin_statements_and_commit(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sytq.ledger.pool.RESTED", 3600.0)  # even if the machine stalls
    before = {what: asked(database, what) for what in ("admin_commands", "begin", "rollback", "commit")}
    for number in range(5):
        transact(database, lambda n=number: database.execute_sql("INSERT INTO t (id) VALUES (%s)", (n,)))
    after = {what: asked(database, what) - count for what, count in before.items()}
    assert after == {"admin_commands": 0, "begin": 5, "rollback": 0, "commit": 5}


def test_a_connection_closed_by_the_server_is_not_reused(database: peewee.Database, mysql_server: MySQLServer) -> None:
    first = session(database)
    mysql_server.execute(f"KILL {first}")
    poll(lambda: not mysql_server.execute(f"SELECT 1 FROM information_schema.processlist WHERE id = {first}"))
    transact(database, lambda: database.execute_sql("INSERT INTO t (id) VALUES (1)"))
    assert session(database) != first


def test_a_connection_that_has_rested_is_replaced(database: peewee.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first = session(database)
    assert session(database) == first
    monkeypatch.setattr("sytq.ledger.pool.RESTED", -1.0)
    assert session(database) != first


@pytest.fixture
def behind_proxy(mysql_url: str) -> Iterator[tuple[peewee.Database, Proxy]]:
    parts = urlsplit(mysql_url)
    proxy = Proxy(parts.port or 3306)
    made = open_database(mysql_url.replace(f":{parts.port}/", f":{proxy.port}/"))
    read(made, lambda: made.execute_sql("CREATE TABLE t (id INTEGER)"))
    yield made, proxy
    made.close_all()  # type: ignore[attr-defined]
    proxy.close()


def test_what_an_old_connection_breaks_is_repeated_on_a_new_one(behind_proxy: tuple[peewee.Database, Proxy]) -> None:
    database, proxy = behind_proxy
    proxy.lose_replies(b"SELECT 41")
    assert read(database, lambda: list(database.execute_sql("SELECT 41"))) == [(41,)]
    proxy.lose_replies(b"BEGIN")
    transact(database, lambda: database.execute_sql("INSERT INTO t VALUES (1)"))
    assert read(database, lambda: list(database.execute_sql("SELECT id FROM t"))) == [(1,)]


@pytest.mark.parametrize(("lost", "times"), [(b"SELECT 41", 2), (b"INSERT", 1), (b"\x03COMMIT", 1)])
def test_what_breaks_again_or_may_have_happened_is_not_repeated(
    behind_proxy: tuple[peewee.Database, Proxy], lost: bytes, times: int
) -> None:
    database, proxy = behind_proxy
    proxy.lose_replies(lost, times)
    with pytest.raises(DatabaseUnavailable):
        if lost == b"SELECT 41":
            read(database, lambda: list(database.execute_sql("SELECT 41")))
        else:
            transact(database, lambda: database.execute_sql("INSERT INTO t VALUES (1)"))
    rows = read(database, lambda: list(database.execute_sql("SELECT id FROM t")))
    assert rows == ([(1,)] if lost == b"\x03COMMIT" else [])


def test_an_open_transaction_is_rolled_back_before_reuse(database: peewee.Database) -> None:
    with database.connection_context():
        database.execute_sql("BEGIN")
        database.execute_sql("INSERT INTO t (id) VALUES (1)")
    first = session(database)
    assert read(database, lambda: list(database.execute_sql("SELECT id FROM t"))) == []
    assert session(database) == first


def test_inserts_leave_out_empty_columns(database: peewee.Database) -> None:
    columns = {"id": (1, 2), "a": (None, 3), "b": (None, None)}
    transact(database, lambda: insert_ignore(database, "t", columns))
    transact(database, lambda: insert_ignore(database, "t", {"id": (), "a": (), "b": ()}))
    rows = read(database, lambda: list(database.execute_sql("SELECT id, a, b FROM t ORDER BY id")))
    assert rows == [(1, None, None), (2, 3, None)]


def test_inserted_text_is_what_was_given(database: peewee.Database) -> None:
    same, texts = "100 %s 'or' \\ \"%\" \u00e9\U0001f600", ["", "%", "'", "\\'", "%(id)s", "\n\t\r"]
    columns = {"id": range(len(texts)), "same": [same] * len(texts), "text": texts}
    with database.connection_context():
        database.execute_sql("CREATE TABLE texts (id INTEGER PRIMARY KEY, same VARCHAR(100), text VARCHAR(100))")
        transact(database, lambda: insert_ignore(database, "texts", columns))
        assert list(database.execute_sql("SELECT * FROM texts ORDER BY id")) == [
            (number, same, text) for number, text in enumerate(texts)
        ]


def test_rows_beyond_the_size_of_a_statement_are_all_inserted(
    database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sytq.ledger.database._STATEMENT_MAX", 20)
    transact(database, lambda: insert_ignore(database, "t", {"id": range(100), "a": [7] * 100}))
    rows = read(database, lambda: list(database.execute_sql("SELECT id, a FROM t ORDER BY id")))
    assert rows == [(number, 7) for number in range(100)]
