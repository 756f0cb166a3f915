"""The pooled Peewee database of a URL; transactions, locks and inserts in both dialects. Must not know any table."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import peewee
from playhouse.pool import PooledSqliteDatabase
from pymysql.constants import CLIENT

from sytq.durations import parse_duration
from sytq.errors import ConfigError, DatabaseUnavailable
from sytq.ledger import refusals
from sytq.ledger.pool import MaxConnectionsExceeded, MySQL
from sytq.ledger.values import plain
from sytq.observability.metrics import Histogram
from sytq.observability.outages import DATABASE
from sytq.tls import client_context

T = TypeVar("T")
M = TypeVar("M", bound=peewee.Model)

_SECONDS = Histogram(
    "sytq_database_seconds", "Transactions and reads, with waiting for a connection and repetitions.", ("outcome",)
)

_MAX_TRIES = 6
#: Characters of the rows of one INSERT, to stay below MySQL's max_allowed_packet.
_STATEMENT_MAX = 1 << 20
#: Seconds after which nothing is retried: a caller waits, and each retry may wait for a lock.
_RETRY_WITHIN = 10.0


def open_database(url: str, *, pool: int = 20, timeout: float = 5.0) -> peewee.Database:
    """Return an unconnected, pooled database for `sqlite:///path` or `mysql://user:pw@host:port/name`.

    `timeout` (seconds) bounds connecting, waiting for a pooled connection and SQLite's lock; reads and
    writes on a MySQL socket get twice that. Raises ConfigError for another scheme.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return PooledSqliteDatabase(  # type: ignore[no-any-return]
            unquote(parts.path[1:]),
            max_connections=pool,
            timeout=timeout,
            check_same_thread=False,
            lock_type="IMMEDIATE",
            pragmas={
                "journal_mode": "wal",
                "synchronous": "full",
                "foreign_keys": 1,
                "busy_timeout": int(timeout * 1000),
            },
        )
    if parts.scheme == "mysql":
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}

        def seconds(name: str, default: float) -> float:
            return parse_duration(query[name]) if name in query else default

        where = (
            {"unix_socket": query["unix_socket"]}
            if "unix_socket" in query
            else {"host": parts.hostname or "localhost", "port": parts.port or 3306}
        )
        return MySQL(
            unquote(parts.path[1:]),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            # Whatever the URL says: in any other character set the server replaces characters by `?` without a word.
            charset="utf8mb4",
            max_connections=pool,
            timeout=timeout,
            stale_timeout=300,
            connect_timeout=max(1, int(seconds("timeout", timeout))),
            read_timeout=seconds("readTimeout", timeout * 2),
            write_timeout=seconds("writeTimeout", timeout * 2),
            # An UPDATE reports matched rows, also unchanged ones.
            client_flag=CLIENT.FOUND_ROWS,
            **where,
            **_tls(query.get("tls")),
        )
    raise ConfigError(f"database.url: scheme '{parts.scheme}' is not valid; valid: sqlite, mysql")


def _tls(mode: str | None) -> dict[str, Any]:
    """PyMySQL's arguments for the Go driver's `tls` parameter; by default TLS is used if the server has it."""
    if mode in (None, "preferred"):
        return {}
    if mode == "false":
        return {"ssl_disabled": True}
    context = client_context()
    if mode == "skip-verify":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return {"ssl": context}


def is_mysql(database: peewee.Database) -> bool:
    """Whether this is MySQL or MariaDB rather than SQLite."""
    return isinstance(database, peewee.MySQLDatabase)


def is_mariadb(database: peewee.Database) -> bool:
    """Whether the server of the thread's connection says that it is MariaDB; a proxy may say something else."""
    return is_mysql(database) and "MariaDB" in database.connection().server_version


def transact(database: peewee.Database, work: Callable[[], T]) -> T:
    """Run `work` in one transaction and return its result; on a deadlock run it again.

    `work` must change nothing but the database, as it may run several times.
    Raises DatabaseUnavailable, and Peewee's error for a fault of a statement, its values or its table.
    """
    return _timed(database, work, database.atomic)


def read(database: peewee.Database, work: Callable[[], T]) -> T:
    """Run `work`, which only reads, on a pooled connection without a transaction. Raises DatabaseUnavailable."""
    return _timed(database, work, None)


def read_snapshot(database: peewee.Database, work: Callable[[], T]) -> T:
    """Run `work`, which only reads, on one snapshot, taken at its first statement. Raises DatabaseUnavailable."""
    moment = "REPEATABLE READ" if is_mysql(database) else "DEFERRED"
    return _timed(database, work, lambda: database.atomic(moment))


def _timed(database: peewee.Database, work: Callable[[], T], transaction: Callable[[], object] | None) -> T:
    since, outcome = time.perf_counter(), "error"
    try:
        value = _run(database, work, transaction)
        outcome = "ok"
        if DATABASE.since is not None and transaction is not None:  # a full disk still answers reads
            DATABASE.answered()
        return value
    except DatabaseUnavailable:
        outcome = "away"
        raise
    finally:
        _SECONDS.observe(time.perf_counter() - since, outcome)


def _run(database: peewee.Database, work: Callable[[], T], transaction: Callable[[], object] | None) -> T:
    deadline = time.monotonic() + _RETRY_WITHIN
    for number in range(_MAX_TRIES):
        harmless = True  # to run again whatever the database has done
        try:
            with database.connection_context():
                if transaction is None:
                    return work()
                with transaction():  # type: ignore[attr-defined]
                    harmless = False
                    return work()
        except MaxConnectionsExceeded as error:
            raise DatabaseUnavailable("all pooled database connections are busy") from error
        except peewee.PeeweeException as error:
            verdict = refusals.verdict(error)
            if verdict == "fault" or database.in_transaction():
                raise  # inside another transaction the outermost one decides
            if number == 0 and harmless and refusals.is_broken_connection(error):
                continue  # it may have been old; a new one decides
            if verdict == "not now" or number == _MAX_TRIES - 1 or time.monotonic() > deadline:
                raise DatabaseUnavailable(refusals.said(error)) from error
        except Exception as error:
            if refusals.of_driver(error):
                raise DatabaseUnavailable(f"the database's answer is none: {type(error).__name__}") from error
            raise
        time.sleep(random.uniform(0, 0.02 * 2**number))  # noqa: S311
    raise AssertionError("unreachable")


# -- SQL without ORM rows: building them costs more than the server's work


def marks(database: peewee.Database, count: int) -> str:
    """Placeholders for `count` values."""
    return ", ".join(["%s" if is_mysql(database) else "?"] * count)


def execute(database: peewee.Database, sql: str, *values: Any) -> Any:
    """Run a statement that is the same text each time, with a `?` for each value; return its cursor."""
    return database.execute_sql(sql.replace("?", "%s") if is_mysql(database) else sql, tuple(map(plain, values)))


def locked(query: peewee.ModelSelect[M]) -> list[M]:
    """Return the rows of a query, locked until the caller's transaction ends; SQLite locks the whole database."""
    return list(query.for_update() if is_mysql(query.model._meta.database) else query)


def execute_many(database: peewee.Database, sql: str, rows: Iterable[Sequence[Any]]) -> None:
    """Run one statement for many rows. Only plain placeholders: PyMySQL sends anything else row by row."""
    if values := [tuple(map(plain, row)) for row in rows]:
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            database.cursor().executemany(sql, values)


def insert_ignore(database: peewee.Database, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Insert rows, given as the values of each column; rows with a taken key stay unchanged."""
    any_column = next(iter(columns), "")
    keep = f"ON DUPLICATE KEY UPDATE {any_column} = {any_column}" if is_mysql(database) else "ON CONFLICT DO NOTHING"
    _insert(database, table, columns, keep)


def upsert(
    database: peewee.Database,
    table: str,
    columns: Mapping[str, Sequence[Any]],
    *,
    key: Sequence[str],
    replace: Sequence[str],
    unless: tuple[str, str] | None = None,
) -> None:
    """Insert rows, given as the values of each column; where a `key` is taken, the columns of `replace` change.

    `unless` is a column and a word: a new row with it changes nothing.
    """
    if is_mysql(database):
        new = "IF(VALUES({1}) = '{2}', {0}, VALUES({0}))" if unless else "VALUES({0})"
        conflict, tail = "ON DUPLICATE KEY UPDATE", ""
    else:
        new = "excluded.{0}"
        conflict = f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET"
        tail = " WHERE excluded.{} <> '{}'".format(*unless) if unless else ""
    assignments = ", ".join(f"{name} = {new.format(name, *(unless or ()))}" for name in replace)
    _insert(database, table, columns, f"{conflict} {assignments}{tail}")


def _insert(database: peewee.Database, table: str, columns: Mapping[str, Sequence[Any]], tail: str) -> None:
    # An empty column costs as much as a full one, so it is left out: its default must be NULL.
    used = {name: values for name, values in columns.items() if values.count(None) < len(values)}
    head = f"INSERT INTO {table} ({', '.join(used)}) VALUES"
    if not is_mysql(database):
        execute_many(database, f"{head} ({marks(database, len(used))}) {tail}", zip(*used.values(), strict=True))
        return
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        cursor = database.cursor()
        for rows in _joined(_written(cursor, used.values())):
            cursor.execute(f"{head} {rows} {tail}")


def _written(cursor: Any, columns: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Rows as SQL. `executemany` writes each value of each row; here a column of equal values is written once."""
    signs: list[str] = []
    varying: list[Iterable[Any]] = []
    for values in columns:
        if varying and values.count(values[0]) == len(values):
            signs.append(cursor.mogrify("%s", (plain(values[0]),)).replace("%", "%%"))
        else:
            signs.append("%s")
            varying.append(map(plain, values))
    row = f"({','.join(signs)})"
    return (cursor.mogrify(row, values) for values in zip(*varying, strict=True))


def _joined(rows: Iterable[str]) -> Iterator[str]:
    """The rows of each statement."""
    part: list[str] = []
    size = 0
    for row in rows:
        if part and size + len(row) > _STATEMENT_MAX:
            yield ",".join(part)
            part, size = [], 0
        part.append(row)
        size += len(row)
    if part:
        yield ",".join(part)
