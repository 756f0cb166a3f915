"""What a caller's table of SQLite can have is restored equal, or refused by name before it is needed."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import peewee
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sytq.errors import ConfigError
from sytq.ledger.backup import Summary, dump
from sytq.ledger.backup.restore import restore
from sytq.ledger.database import open_database
from tests.ledger.test_backup import PLUGINS, quiet
from tests.tables import make_tables

#: Every kind of value, whatever the column's type says.
VALUES: list[Any] = [
    None, 0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.1, -0.0, 1e308, 5e-324, math.inf, -math.inf, 1.0, "", "1", "1.0",
    "1e3", "abc", "a\0b", "\0", "🧾 é", "NULL", "0x10", b"", b"\0", bytes(range(256)), "x" * 70_000, "2026-02-31",
]  # fmt: skip
TYPES = (
    "INTEGER",
    "INT",
    "TEXT",
    "VARCHAR(3)",
    "REAL",
    "NUMERIC",
    "DECIMAL(9,2)",
    "BLOB",
    "",
    "BOOLEAN",
    "DATETIME",
    "JSON",
)


class Pair:
    """A database with a caller's tables, and the one that its backup is restored into."""

    def __init__(self, folder: Path, *statements: str) -> None:
        self.folder = folder
        self.source, self.target = (open_database(f"sqlite:///{folder / name}.db") for name in ("source", "target"))
        make_tables(self.source)
        with sqlite3.connect(folder / "source.db") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    def restored(self, *tables: str) -> Summary:
        dump(self.source, self.folder / "b", tables, quiet)
        return restore(self.folder / "b", self.target, quiet, PLUGINS)

    def rows(self, query: str) -> tuple[list[Any], list[Any]]:
        """What both databases answer; text as its bytes."""
        found = []
        for name in ("source", "target"):
            connection = sqlite3.connect(self.folder / f"{name}.db")
            connection.text_factory = lambda raw: ("text", raw)
            found.append(sorted(connection.execute(query).fetchall(), key=repr))
            connection.close()
        return found[0], found[1]


def insert(pair: Pair, table: str, rows: list[tuple[Any, ...]]) -> None:
    with sqlite3.connect(pair.folder / "source.db") as connection:
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.close()


def test_a_value_of_any_type_in_a_column_of_any_is_restored(tmp_path: Path) -> None:
    names = ", ".join(f"c{place} {kind}" for place, kind in enumerate(TYPES))
    pair = Pair(tmp_path, f"CREATE TABLE loose ({names})")
    insert(pair, "loose", [(value,) * len(TYPES) for value in VALUES])
    with sqlite3.connect(tmp_path / "source.db") as connection:  # no UTF-8, and half of a surrogate pair
        connection.execute("INSERT INTO loose (c2, c7) VALUES (CAST(X'FF41C3' AS TEXT), CAST(X'EDA080' AS TEXT))")
    connection.close()
    pair.restored("loose")
    typed = ", ".join(f"typeof(c{place}), c{place}" for place in range(len(TYPES)))
    there, back = pair.rows(f"SELECT {typed} FROM loose")
    assert repr(there) == repr(back)  # repr: -0.0 is not 0.0
    assert len(there) == len(VALUES) + 1


value = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals().map(str),
)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.tuples(*[value] * len(TYPES)), min_size=1, max_size=300))
def test_any_rows_are_restored_equal(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]) -> None:
    names = ", ".join(f"c{place} {kind}" for place, kind in enumerate(TYPES))
    pair = Pair(tmp_path_factory.mktemp("pair"), f"CREATE TABLE loose ({names})")
    insert(pair, "loose", rows)
    pair.restored("loose")
    typed = ", ".join(f"typeof(c{place}), c{place}" for place in range(len(TYPES)))
    there, back = pair.rows(f"SELECT {typed} FROM loose")
    assert repr(there) == repr(back)


TABLES = {
    "strict": (
        "CREATE TABLE strict (a INT, b INTEGER, c REAL, d TEXT, e BLOB, f ANY) STRICT",
        "INSERT INTO strict VALUES (1, 9007199254740993, 0.1, '1', X'00', '01')",
        "INSERT INTO strict (f) VALUES (X'01'), (1), (1.5), ('1')",
        "CREATE TRIGGER logged AFTER INSERT ON strict BEGIN INSERT INTO not_in_the_backup VALUES (NEW.a); END",
    ),
    "no_rowid": (
        "CREATE TABLE no_rowid (a TEXT COLLATE NOCASE, b INT, PRIMARY KEY (a, b DESC)) WITHOUT ROWID",
        "INSERT INTO no_rowid VALUES ('x', 1), ('x', 2)",
    ),
    "computed": (
        "CREATE TABLE computed (a INT, twice INT GENERATED ALWAYS AS (a * 2) VIRTUAL, b TEXT, c AS (b || '%') STORED)",
        "CREATE UNIQUE INDEX computed_c ON computed (c)",
        "INSERT INTO computed (a, b) VALUES (1, 'x'), (2, 'y')",
    ),
    "serial": (
        "CREATE TABLE serial (id INTEGER PRIMARY KEY AUTOINCREMENT, a DEFAULT (random()), b TEXT DEFAULT 'it''s %')",
        "INSERT INTO serial (id, a) VALUES (7, 1), (9000, 2)",
        "DELETE FROM serial WHERE id = 9000",
    ),
    "emptied": (
        "CREATE TABLE emptied (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO emptied VALUES (12)",
        "DELETE FROM emptied",
    ),
    "indexed": (
        "CREATE TABLE indexed (a TEXT UNIQUE ON CONFLICT REPLACE, b INT CHECK (b < 9), c)",
        "CREATE INDEX part ON indexed (lower(a), b DESC) WHERE b > 1",
        "PRAGMA ignore_check_constraints = ON",
        "INSERT INTO indexed VALUES ('x', 10, 1)",  # older than the constraint
    ),
    "a_child": (
        "CREATE TABLE a_child (id INTEGER PRIMARY KEY, up INT REFERENCES z_parent (id),"
        " away INT REFERENCES elsewhere (id))",
        "INSERT INTO a_child VALUES (1, 5, 1), (2, 404, 2)",
    ),
    "z_parent": ("CREATE TABLE z_parent (id INTEGER PRIMARY KEY)", "INSERT INTO z_parent VALUES (5)"),
    "watched": (
        "CREATE TABLE watched (id INTEGER PRIMARY KEY, n INT)",
        "INSERT INTO watched VALUES (1, 1)",
        "CREATE TRIGGER a_double AFTER INSERT ON watched BEGIN UPDATE watched SET n = n * 2 WHERE id = NEW.id; END",
    ),
    'se"lect': (
        'CREATE TABLE "se""lect" ("group" INT, "a b" INT, "%s" INT, "?" INT, [br] INT, `back` INT, "報告" INT,'
        ' ":a" INT)',
        'INSERT INTO "se""lect" VALUES (1, 2, 3, 4, 5, 6, 7, 8)',
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def all_tables(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    pair = Pair(folder, *(statement for statements in TABLES.values() for statement in statements))
    summary = pair.restored(*TABLES)
    assert summary.header.notes == [
        "table 'a_child' refers to table 'elsewhere', which is not in the backup: bring it back too"
    ]
    return pair


@pytest.mark.parametrize("table", TABLES)
def test_a_callers_table_is_restored_as_it_was(all_tables: Pair, table: str) -> None:
    quoted = '"{}"'.format(table.replace('"', '""'))
    there, back = all_tables.rows(f"SELECT * FROM {quoted}")
    assert repr(there) == repr(back)
    literal = "'{}'".format(table.replace("'", "''"))
    there, back = all_tables.rows(f"SELECT type, name, sql FROM sqlite_master WHERE tbl_name = {literal}")
    assert there == back
    assert there
    there, back = all_tables.rows(f"SELECT seq FROM sqlite_sequence WHERE name = {literal}")
    assert there == back


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["CREATE VIEW t AS SELECT 1"], "is a view: list the tables that it reads"),
        (["CREATE VIRTUAL TABLE t USING fts5(a)"], "is a virtual table"),
        (
            ["CREATE TABLE t (a TEXT COLLATE mine)", "CREATE INDEX i ON t (a)"],
            "can be made by its own program only .*mine",
        ),
        (["CREATE TABLE t (a INT, b AS (mine(a)) STORED)"], "can be made by its own program only .*mine"),
        (["CREATE TABLE t (a INT CHECK (mine(a)))"], "can be made by its own program only .*mine"),
        ([], "is not in the database"),
    ],
)
def test_what_cannot_be_restored_is_refused_by_name(tmp_path: Path, statements: list[str], why: str) -> None:
    pair = Pair(tmp_path)
    with sqlite3.connect(tmp_path / "source.db") as connection:
        connection.create_function("mine", 1, lambda given: given, deterministic=True)
        connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
        for statement in statements:
            connection.execute(statement)
    connection.close()
    with pytest.raises(ConfigError, match=f"table 't' {why}.*; llm.tables lists it"):
        dump(pair.source, tmp_path / "b", ["t"], quiet)


def test_a_restored_trigger_works_and_has_not_seen_the_rows(all_tables: Pair) -> None:
    with all_tables.target.connection_context():
        all_tables.target.execute_sql("INSERT INTO watched VALUES (2, 5)")
        assert all_tables.target.execute_sql("SELECT n FROM watched ORDER BY id").fetchall() == [(1,), (10,)]
        with pytest.raises(peewee.IntegrityError):  # foreign keys and checks are on again
            all_tables.target.execute_sql("INSERT INTO indexed VALUES ('y', 11, 1)")
        all_tables.target.execute_sql("DELETE FROM watched WHERE id = 2")
