"""Checks the database: connection, tables, session settings, durability. Creates no SQLite file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import peewee

from sytq.cli.doctor.comparison import clock, numbers, skew
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.cli.output import age
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable
from sytq.ledger.api_keys import ApiKeys
from sytq.ledger.database import is_mysql, open_database, read
from sytq.ledger.migrations import pending
from sytq.ledger.models import ApiKey, Pause, ScheduleRow
from sytq.ledger.schedules import AHEAD, Schedules
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from sytq.service import condition, ledger_check
from sytq.service.hold import held

_TIMEOUT = 2.0


def database(settings: Settings) -> Iterator[Finding]:
    """Check version, migrations, session, connections, durability and clock, and whether anybody can log in."""
    parts = urlsplit(settings.database_url)
    if parts.scheme == "sqlite" and not Path(path := unquote(parts.path[1:])).exists():
        yield Finding("database", FAIL, f"there is no file {path}", "run `sytq db migrate`, or correct database.url")
        return
    base = open_database(settings.database_url, pool=1, timeout=_TIMEOUT)
    try:
        ahead = skew(lambda: Search(base).now().replace(tzinfo=dt.UTC).timestamp())
    except (DatabaseUnavailable, peewee.PeeweeException) as error:
        said = str(error) if isinstance(error, DatabaseUnavailable) else f"the database refuses: {error.args[-1]}"
        todo = "start the database, or correct database.url; until then no task is accepted"
        yield Finding("database", FAIL, said[:300], todo)
        return
    yield from (_mysql if is_mysql(base) else _sqlite)(base, settings)
    missing = pending(base, settings.installed.plugins)
    if missing:
        yield Finding("migrations", FAIL, f"the database lacks {', '.join(missing)}", "run `sytq db migrate`")
    else:
        yield Finding("migrations", OK, "up to date")
        # Whether a submission would be taken, as the readiness of the API says.
        yield condition.database(ledger_check.look(base, lambda: []))
        yield from _logins(base, settings)
        yield from _schedules(base)
        with base.bind_ctx([Pause]):
            since = held(base)
        yield from condition.hold(since)
    yield clock("database clock", ahead)


def _schedules(base: peewee.Database) -> Iterator[Finding]:
    """Name the schedules that wait for a time that a wrong clock has set."""
    with base.bind_ctx([ScheduleRow]):
        rows = Schedules(base).rows()
    for name, row in rows.items():
        if (ahead := row.last_tick - utcnow()) > AHEAD:
            said = f"{name} last ran {age(ahead.total_seconds())} in the future"
            todo = "correct the clock of Redis or of this machine; a worker then lets the schedule go on from now"
            yield Finding("schedules", WARN, said, todo)


def _sqlite(base: peewee.Database, settings: Settings) -> Iterator[Finding]:
    def work() -> tuple[str, str]:
        (version,) = base.execute_sql("SELECT sqlite_version()").fetchone()
        (mode,) = base.execute_sql("PRAGMA journal_mode").fetchone()
        return version, mode

    version, mode = read(base, work)
    if numbers(version) < (3, 35):
        yield Finding("database", FAIL, f"SQLite {version}", "use a Python that comes with SQLite 3.35 or newer")
    else:
        yield Finding("database", OK, f"SQLite {version}")
    if mode != "wal":
        todo = "move the file to a local disk: processes cannot share SQLite on a network file system"
        yield Finding("database journal", FAIL, f"journal_mode is {mode}, and wal cannot be set", todo)


def _mysql(base: peewee.Database, settings: Settings) -> Iterator[Finding]:
    names = (
        "version", "sql_mode", "time_zone", "character_set_client", "character_set_results", "character_set_database",
        "max_allowed_packet", "max_connections", "innodb_flush_log_at_trx_commit",
    )  # fmt: skip
    asked = ", ".join(f"@@{name}" for name in names)
    values = read(base, lambda: base.execute_sql(f"SELECT {asked}").fetchone())
    seen = dict(zip(names, values, strict=True))
    version = str(seen["version"])
    maria = "mariadb" in version.lower()
    oldest = (10, 5) if maria else (8, 0)
    said = f"{'MariaDB' if maria else 'MySQL'} {version}"
    old = numbers(version) < oldest
    yield Finding("database", FAIL if old else OK, said, "use MySQL 8 or MariaDB 10.5, or newer" if old else "")
    # Every connection of sytq sets these; a proxy in between may reset them.
    strict = "STRICT_ALL_TABLES" in str(seen["sql_mode"]) and str(seen["time_zone"]) in ("+00:00", "UTC")
    if strict:
        yield Finding("database session", OK, "strict SQL mode, UTC")
    else:
        said = f"sql_mode {seen['sql_mode']}, time_zone {seen['time_zone']}: the settings of sytq were lost"
        todo = "configure the proxy so that it does not share sessions between statements"
        yield Finding("database session", FAIL, said, todo)
    session = {str(seen["character_set_client"]), str(seen["character_set_results"])}
    if session != {"utf8mb4"}:
        charsets = " and ".join(sorted(session))
        said = f"the session is {charsets}: the settings of sytq were lost, and characters with them"
        yield Finding("database charset", FAIL, said, "configure the proxy so that it keeps each session's utf8mb4")
    elif seen["character_set_database"] != "utf8mb4":
        said = f"session utf8mb4, database {seen['character_set_database']}"
        todo = "ALTER DATABASE ... CHARACTER SET utf8mb4: new tables lose emoji and Chinese"
        yield Finding("database charset", WARN, said, todo)
    else:
        yield Finding("database charset", OK, "utf8mb4")
    if int(seen["max_allowed_packet"]) < 4 << 20:
        said = f"max_allowed_packet is {int(seen['max_allowed_packet']) >> 10} KiB"
        yield Finding("database packet", WARN, said, "set max_allowed_packet to 16M: batches of tasks can be larger")
    maximum = int(seen["max_connections"])
    needed = settings.database.pool * (settings.api.workers + settings.worker.processes)
    verdict, todo = (OK, "") if needed <= maximum else (WARN, "raise max_connections, or lower database.pool")
    said = f"a machine with this configuration opens up to {needed} of {maximum} connections"
    yield Finding("database connections", verdict, said, todo)
    if int(seen["innodb_flush_log_at_trx_commit"]) != 1:
        said = f"innodb_flush_log_at_trx_commit is {seen['innodb_flush_log_at_trx_commit']}"
        todo = "set it to 1, or accept that a power cut may lose the last second of accepted tasks"
        yield Finding("database durability", WARN, said, todo)
    else:
        yield Finding("database durability", OK, "every commit reaches the disk")


def _logins(base: peewee.Database, settings: Settings) -> Iterator[Finding]:
    if settings.auth.enabled and not settings.auth.users:
        with base.bind_ctx([ApiKey]):
            live = ApiKeys(base).any_live()
        if live:
            yield Finding("auth", OK, "API keys only; auth.users is empty")
        else:
            said = "auth.enabled is true, but there is neither a user nor a valid key: nobody can log in"
            yield Finding("auth", WARN, said, "run `sytq key create`, or set auth.users")
