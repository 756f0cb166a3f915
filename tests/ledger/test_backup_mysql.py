"""What a caller's table of MariaDB or MySQL can have is restored equal, or refused by name before it is needed."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sytq.errors import BackupBroken, ConfigError
from sytq.ledger.backup import Summary, dump
from sytq.ledger.backup.format import Header, Table, create
from sytq.ledger.backup.restore import restore
from sytq.ledger.backup.tables import notes, quote
from sytq.ledger.database import open_database
from tests.ledger.test_backup import PLUGINS, quiet
from tests.servers import MySQLServer
from tests.tables import make_tables

BYTES = "X'" + bytes(range(256)).hex() + "'"
#: Statement that makes a table, and its rows, as SQL; `None` for a row of the defaults.
TABLES: dict[str, tuple[str, list[str]]] = {
    "numbers": (
        """CREATE TABLE numbers (a TINYINT, b BIGINT UNSIGNED, c BIGINT, d DECIMAL(65,30), e FLOAT, f DOUBLE,
        g BIT(1), h BIT(64), i BOOLEAN, j INT(9) UNSIGNED ZEROFILL, k DOUBLE(9,3), l FLOAT(9,4),
        m MEDIUMINT, n DECIMAL(9,8))""",
        [
            "-128, 18446744073709551615, -9223372036854775808,"
            " 12345678901234567890123456789012345.123456789012345678901234567891,"
            " 16777217.5, 1.7976931348623157e308, b'1', 18446744073709551615, TRUE, 7, 1.005, 2.00005, -8388608, 1e-8",
            "127, 0, 9223372036854775807, -0.000000000000000000000000000001, 1.17549435e-38, 2.2250738585072014e-308,"
            " b'0', 1, FALSE, 4294967295, -1, 123.4567, 0, -1e-8",
            "NULL, 9007199254740993, 9007199254740993, NULL, 0.1, 0.1, NULL, b'101', 2, NULL, NULL, NULL, NULL, NULL",
            "0, 1, 0, 0, 3.4028234e38, -1e-300, NULL, 0, NULL, 0, 0, 16777.0001, 1, 0",
            "0, 1, 0, 0, -0e0, -0e0, NULL, 0, NULL, 0, 0, -0e0, 1, 0",
        ],
    ),
    "times": (
        """CREATE TABLE times (a DATE, b TIME, c TIME(6), d DATETIME, e DATETIME(6), f TIMESTAMP NULL,
        g TIMESTAMP(3) NULL, h YEAR)""",
        [
            "'0000-00-00', '-838:59:59', '838:59:59', '0000-00-00', '9999-12-31 23:59:59.999999',"
            " '0000-00-00', NULL, 0",
            "'2026-02-31', '-00:00:01', '-00:00:00.000001', '2026-00-00', '1000-01-01 00:00:00.000001',"
            " '2038-01-19 03:14:07', '1970-01-01 00:00:01.001', 1901",
            "'0001-01-01', '24:00:00', '-24:00:00.5', '0001-01-01 00:00:01', '0000-00-00 00:00:00', NULL,"
            " '2026-10-25 01:30:00.5', 2155",
            "'9999-12-31', '00:00:00', '100:00:00.123456', '2026-11-31 11:00:00', NULL, "
            "'2026-03-29 02:30:00', NULL, NULL",
        ],
    ),
    "texts": (
        """CREATE TABLE texts (a VARCHAR(99), b CHAR(9) CHARACTER SET latin1, c TEXT CHARACTER SET latin1, d LONGTEXT,
        e VARCHAR(99) CHARACTER SET utf8mb3, f VARCHAR(99) CHARACTER SET utf16, g VARCHAR(99) CHARACTER SET cp1251,
        h VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin, i JSON, j ENUM('a','ü','it''s'), k SET('a','b c','d')
        ) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci""",
        [
            "'🧾 é', 'é€', 'naïve €', REPEAT('報告🧾', 40000), '報', '🧾', 'Привет', 'x', '{\"a\": [1, 2.50, \"🧾\"]}',"
            " 'ü', 'a,b c,d'",
            "'', '', '', '', '', '', '', '', '[]', '', ''",
            "'%s % %% ? :a', 'a\\\\b\\'\"', 'a\\nb\\r\\0\\Z', '\\0', ' ', ' x ', 'NULL', '%', 'null', 'it''s', NULL",
            "NULL, NULL, CONVERT(X'8081A0FF8D' USING latin1), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
            "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'no member', 'no member'",
        ],
    ),
    "old_texts": (
        """CREATE TABLE old_texts (a VARCHAR(9) CHARACTER SET cp932, b VARCHAR(9) CHARACTER SET gbk,
        c VARCHAR(9) CHARACTER SET cp1250, d VARCHAR(9) CHARACTER SET sjis)""",
        ["X'81CA81AD', X'A2A1', X'81', '表'", "'日本', '中文', 'ž', ''", "NULL, NULL, NULL, NULL"],
    ),
    "blobs": (
        "CREATE TABLE blobs (a BINARY(5), b VARBINARY(300), c BLOB, d LONGBLOB, e TINYBLOB)",
        [f"X'0100', {BYTES}, {BYTES}, REPEAT({BYTES}, 300), ''",
         "X'0000000000', '', '', '', X'00'", "NULL, NULL, NULL, NULL, NULL"],
    ),
    "mariadb_types": (
        "CREATE TABLE mariadb_types (a UUID, b INET6, c INET4, d VARCHAR(2000) COMPRESSED, e TEXT COMPRESSED)",
        [
            "'6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2001:db8::ff00:42:8329', '192.0.2.1', REPEAT('ab', 900), '🧾'",
            "'00000000-0000-0000-0000-000000000000', '::', '0.0.0.0', '', ''",
            "NULL, '::ffff:192.0.2.1', '255.255.255.255', NULL, NULL",
        ],
    ),
    "places": (
        "CREATE TABLE places (a GEOMETRY, b POINT NOT NULL, c POLYGON, SPATIAL INDEX (b))",
        [
            "ST_GeomFromText('LINESTRING(0 0, 1.5 1e-9)', 4326), POINT(1, -2),"
            " ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))')",
            "NULL, ST_GeomFromText('POINT(1e300 0)', 7), NULL",
        ],
    ),
    "attributes": (
        """CREATE TABLE attributes (
        id INT UNSIGNED NOT NULL AUTO_INCREMENT COMMENT 'it''s 100% `quoted` 🧾 \\\\ %s',
        made DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
        zero TIMESTAMP NOT NULL DEFAULT '0000-00-00 00:00:00', token VARCHAR(36) DEFAULT (UUID()),
        twice INT GENERATED ALWAYS AS (hidden * 2) VIRTUAL, thrice INT AS (hidden * 3) STORED UNIQUE,
        month CHAR(7) AS (DATE_FORMAT(made, '%Y-%m')) VIRTUAL INVISIBLE,
        hidden INT INVISIBLE DEFAULT 5, word VARCHAR(50) COLLATE utf8mb4_bin CHECK (CHAR_LENGTH(word) < 9),
        body TEXT, PRIMARY KEY (id), UNIQUE KEY `odd ``name` (word(4), hidden), FULLTEXT KEY words (body),
        KEY prefix (body(20) DESC), CONSTRAINT few CHECK (hidden BETWEEN 0 AND 10)
        ) ENGINE=InnoDB AUTO_INCREMENT=4711 COMMENT='50%' ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8""",
        ["(id, made, hidden, word, body) VALUES (0, '2026-01-01', 7, 'ab', 'some words')",
         "(id, made, word, body) VALUES (4000, '2026-01-02', 'AB', NULL)"],
    ),
    "parts": (
        """CREATE TABLE parts (id BIGINT NOT NULL, at DATE NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (YEAR(at))
        (PARTITION p0 VALUES LESS THAN (2026), PARTITION p1 VALUES LESS THAN MAXVALUE)""",
        ["1, '2025-12-31'", "2, '2026-01-01'"],
    ),
    "a_child": (
        """CREATE TABLE a_child (id INT PRIMARY KEY, parent INT, self INT, CONSTRAINT up FOREIGN KEY (parent)
        REFERENCES z_parent (id) ON DELETE CASCADE, FOREIGN KEY (self) REFERENCES a_child (id))""",
        ["1, 5, 2", "2, 999, 1"],
    ),
    "z_parent": ("CREATE TABLE z_parent (id INT PRIMARY KEY)", ["5"]),
    "select": (
        """CREATE TABLE `select` (`group` INT, `a b` INT, `50%` INT, `%s` INT, `ba``ck` INT, `"` INT, `'` INT,
        `報告` INT, `VALUES (` INT, `?` INT, `a.b` INT, `) VALUES (%s` INT)""",
        ["1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"],
    ),
    "100% `odd`": ("CREATE TABLE `100% ``odd``` (id INT)", ["1"]),
    "versioned": ("CREATE TABLE versioned (id INT PRIMARY KEY, n INT) WITH SYSTEM VERSIONING", ["1, 1"]),
    "periods": (
        """CREATE TABLE periods (id INT PRIMARY KEY, n INT, since TIMESTAMP(6) GENERATED ALWAYS AS ROW START,
        until TIMESTAMP(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (since, until))
        WITH SYSTEM VERSIONING""",
        ["(id, n) VALUES (1, 1)"],
    ),
    "old_engine": ("CREATE TABLE old_engine (id INT PRIMARY KEY) ENGINE=MyISAM", ["1"]),
    "nothing": ("CREATE TABLE nothing (id INT AUTO_INCREMENT PRIMARY KEY) AUTO_INCREMENT=99", []),
}  # fmt: skip


class Pair:
    """A database with all tables, and the one that its backup was restored into."""

    def __init__(self, server: MySQLServer, folder: Path) -> None:
        self.server = server
        self.names = [f"{letter}{os.urandom(6).hex()}" for letter in "st"]
        self.source, self.target = (open_database(server.create_database(name)) for name in self.names)
        for database in (self.source, self.target):
            make_tables(database)
        for table, (made, rows) in TABLES.items():
            self.execute(made)
            for row in rows:
                self.execute(
                    f"INSERT INTO {quote(self.source, table)} {row if 'VALUES (' in row else f'VALUES ({row})'}"
                )
        self.execute("UPDATE versioned SET n = 2")
        self.execute("CREATE TRIGGER doubled BEFORE INSERT ON parts FOR EACH ROW SET NEW.id = NEW.id * 2")
        self.execute("CREATE VIEW seen AS SELECT * FROM parts")
        self.execute("CREATE SEQUENCE serial")
        self.summary: Summary = dump(self.source, folder / "b", list(TABLES), quiet)
        restore(folder / "b", self.target, quiet, PLUGINS)

    def execute(self, statement: str) -> None:
        with self.server.connect(self.names[0]) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SET sql_mode = 'ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0,"
                " time_zone = '+00:00'"
            )
            cursor.execute(statement)

    def rows(self, which: int, sql: str) -> list[tuple[object, ...]]:
        with self.server.connect(self.names[which], conv={}) as connection, connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute(sql)
            return list(cursor.fetchall())

    def close(self) -> None:
        for name, database in zip(self.names, (self.source, self.target), strict=True):
            database.close_all()  # type: ignore[attr-defined]
            self.server.drop_database(name)


@pytest.fixture(scope="module")
def pair(mysql_server: MySQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(mysql_server, tmp_path_factory.mktemp("backup"))
    yield made
    made.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_callers_table_is_restored_as_it_was(pair: Pair, table: str) -> None:
    quoted = quote(pair.source, table)
    made, again = (pair.rows(which, f"SHOW CREATE TABLE {quoted}") for which in (0, 1))
    assert made == again
    assert pair.summary.rows[table] == len(TABLES[table][1])
    names = [quote(pair.source, str(row[0])) for row in pair.rows(0, f"SHOW COLUMNS FROM {quoted}")]
    # The bytes as they are stored; as numbers, a FLOAT has all its digits, and an ENUM without a member is 0.
    exact = ", ".join(f"BINARY {name}" for name in names if name not in ("`since`", "`until`"))
    if table in ("numbers", "texts"):
        exact += "".join(f", 1e0 * {name}" for name in names)
    there, back = (sorted(pair.rows(which, f"SELECT {exact} FROM {quoted}"), key=str) for which in (0, 1))
    assert there == back


def test_a_backup_says_what_a_restored_table_lacks(pair: Pair) -> None:
    assert pair.summary.header.notes == [
        "trigger 'doubled' of table 'parts' is not in the backup: make it again",
        "table 'versioned' keeps earlier versions of its rows: the backup has their last version only",
        "table 'periods' keeps earlier versions of its rows: the backup has their last version only",
        "table 'old_engine' (MyISAM) has no transactions: its rows may be of different moments",
    ]
    with pair.source.connection_context():
        assert notes(pair.source, "a_child", ["a_child"]) == [
            "table 'a_child' refers to table 'z_parent', which is not in the backup: bring it back too"
        ]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("seen", "is a view: list the tables that it reads"),
        ("serial", "is a sequence"),
        ("gone", "is not in the database"),
        ("PARTS", "is not in the database"),
    ],
)
def test_what_is_no_table_is_refused_by_name(pair: Pair, tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"table '{table}' {why}.*; llm.tables lists it"):
        dump(pair.source, tmp_path / "b", [table], quiet)


ANY = """CREATE TABLE any_values (a BIGINT, b BIGINT UNSIGNED, c DECIMAL(65,30), d FLOAT, e DOUBLE, f TIME(6),
    g DATETIME(6), h BIT(64), i LONGTEXT, j LONGTEXT CHARACTER SET latin1, k LONGBLOB,
    l VARCHAR(99) CHARACTER SET cp1250)"""
LONGEST = dt.timedelta(hours=838, minutes=59, seconds=59)
ROW = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.decimals(-(10**34), 10**34, places=30),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.timedeltas(-LONGEST, LONGEST),
    st.datetimes(),
    st.integers(0, 2**64 - 1),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.binary(),
    st.binary(max_size=99),
)


@pytest.fixture(scope="module")
def blank(mysql_server: MySQLServer) -> Iterator[list[peewee.Database]]:
    """Two databases that have only the tables of sytq."""
    names = [f"{letter}{os.urandom(6).hex()}" for letter in "st"]
    made = [open_database(mysql_server.create_database(name)) for name in names]
    for database in made:
        make_tables(database)
    yield made
    for database, name in zip(made, names, strict=True):
        database.close_all()  # type: ignore[attr-defined]
        mysql_server.drop_database(name)


@settings(max_examples=10, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=200))
def test_any_rows_are_restored_equal(
    blank: list[peewee.Database], tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, ...]]
) -> None:
    source, target = blank
    file = tmp_path_factory.mktemp("backup") / "b"
    for database in blank:
        with database.connection_context():
            database.execute_sql("DROP TABLE IF EXISTS any_values")
    with source.connection_context():
        source.execute_sql(ANY)
        marks = ", ".join(["%s"] * len(rows[0]))
        source.cursor().executemany(f"INSERT INTO any_values VALUES ({marks})", rows)
    dump(source, file, ["any_values"], quiet)
    restore(file, target, quiet, PLUGINS)
    exact = ", ".join(f"BINARY {name}, 1e0 * {name}" for name in "abcdefgh") + ", HEX(i), HEX(j), HEX(k), HEX(l)"
    found = []
    for database in blank:
        with database.connection_context():
            found.append(sorted(database.execute_sql(f"SELECT {exact} FROM any_values").fetchall()))
    assert found[0] == found[1]


def test_a_row_above_the_packet_limit_in_a_statement_is_restored(own_mysql: MySQLServer, tmp_path: Path) -> None:
    source, target = (open_database(own_mysql.create_database(name)) for name in ("source", "target"))
    make_tables(source)
    with source.connection_context():
        source.execute_sql(
            "CREATE TABLE big (id INT PRIMARY KEY, a LONGBLOB, b LONGTEXT, c LONGTEXT CHARACTER SET latin1)"
        )
        # Zeros and quotes double in a statement, as do the bytes of a blob.
        source.execute_sql(
            "INSERT INTO big VALUES (1, REPEAT(CHAR(0), 9000000), REPEAT(%s, 1500000), REPEAT('é', 4000000))", ("'🧾",)
        )
        source.execute_sql("INSERT INTO big VALUES (2, NULL, 'x', NULL)")
        sums = "SELECT id, MD5(a), MD5(b), MD5(c), LENGTH(c) FROM big ORDER BY id"
        there = source.execute_sql(sums).fetchall()
    dump(source, tmp_path / "b", ["big"], quiet)
    own_mysql.execute("SET GLOBAL max_allowed_packet = 8388608")
    with pytest.raises(
        BackupBroken, match=r"table 'big' has a value of 9000000 bytes: raise .* \(8388608\) above that"
    ):
        restore(tmp_path / "b", target, quiet, PLUGINS)
    own_mysql.execute("SET GLOBAL max_allowed_packet = 10485760")
    restore(tmp_path / "b", target, quiet, PLUGINS)
    with target.connection_context():
        assert target.execute_sql(sums).fetchall() == there
    for database in (source, target):
        database.close_all()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("CREATE TABLE t (a INT) COLLATE utf8mb4_of_later", "table 't' cannot be made as it was: .*utf8mb4_of_later"),
        ("CREATE TABLE t (a INT) ENGINE=Nosuch", "table 't' cannot be made as it was: .*Nosuch"),
    ],
)
def test_a_table_of_another_server_is_refused_until_it_is_made(
    mysql_server: MySQLServer, tmp_path: Path, made: str, said: str
) -> None:
    name = f"t{os.urandom(6).hex()}"
    target = open_database(mysql_server.create_database(name))
    table = Table("t", ["a"], [made])
    header = Header("2026-01-01T00:00:00.000Z", "mysql", [], [table], 1, ["t"], {}, [])
    with create(tmp_path / "b", header) as writer:
        writer.begin("t")
        writer.row([7])
        writer.finish()
    with pytest.raises(BackupBroken, match=said):
        restore(tmp_path / "b", target, quiet)
    with target.connection_context():
        target.execute_sql("CREATE TABLE t (a INT, more VARCHAR(9) DEFAULT 'x')")
    restore(tmp_path / "b", target, quiet)
    with target.connection_context():
        assert target.execute_sql("SELECT a, more FROM t").fetchall() == ((7, "x"),)
    target.close_all()  # type: ignore[attr-defined]
    mysql_server.drop_database(name)
