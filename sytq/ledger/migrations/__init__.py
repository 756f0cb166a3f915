"""Numbered migrations of the tables, applied in order by `sytq db migrate`.

Each file is one step and is never edited after a release. Plugins have folders of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import peewee
from playhouse.migrations import Runner

from sytq.ledger.database import is_mysql, read, transact
from sytq.ledger.lost_tables import lost, make_anew
from sytq.plugins import Plugin

_LOCK = "sytq_migrate"
#: Seconds for which a change of a table waits for older transactions (a backup, say) before it is tried again: newer
#: statements on that table wait behind it.
_WAIT = 3


#: Names of migrations by plugin; those of the core are under "".
Level = Mapping[str, Sequence[str]]


def pending(database: peewee.Database, plugins: Iterable[Plugin] = ()) -> list[str]:
    """Return what this database lacks: names of the core's and the plugins' migrations, and lost tables."""

    def missing() -> list[str]:
        runners = list(_runners(database, plugins))
        migrations = [
            _shown(plugin, found.name)
            for plugin, runner in runners
            for found in runner.status()
            if found.path and not found.applied
        ]
        return migrations + [f"table {name}" for _, runner in runners for name in sorted(lost(database, runner))]

    return read(database, missing)


def applied(database: peewee.Database, plugins: Iterable[Plugin] = ()) -> list[str]:
    """Return the names of the core's and the plugins' migrations that this database has."""

    def known() -> list[str]:
        runners = list(_runners(database, plugins))
        return [_shown(plugin, found.name) for plugin, runner in runners for found in runner.status() if found.applied]

    return read(database, known)


def unknown(level: Level, plugins: Iterable[Plugin] = ()) -> list[str]:
    """The names of `level` that this version and its plugins do not have; plugins that are not here are ignored."""
    there = {
        plugin: {found.name for found in runner.migrations()}
        for plugin, runner in _runners(peewee.SqliteDatabase(None), plugins)
    }
    return [_shown(plugin, name) for plugin in there for name in level.get(plugin, ()) if name not in there[plugin]]


def migrate(database: peewee.Database, plugins: Iterable[Plugin] = (), level: Level | None = None) -> list[str]:
    """Apply pending migrations, the core's first, and return their names. Raises DatabaseUnavailable.

    Lost tables are made anew first; their names begin with `table `. With a `level` the migrations behind it wait; a
    plugin that it does not name is migrated whole. Concurrent migrators wait for each other.
    """

    def apply() -> list[str]:
        anew = []
        for _, runner in _runners(database, plugins):
            if gone := lost(database, runner):
                make_anew(database, runner, gone)
                anew += [f"table {name}" for name in sorted(gone)]
        return anew + [
            _shown(plugin, name) for plugin, runner in _runners(database, plugins) for name in up(plugin, runner)
        ]

    def up(plugin: str, runner: Runner) -> list[str]:
        if level is None or plugin not in level:
            return list(runner.up())
        return list(runner.up(max(level[plugin]))) if level[plugin] else []

    def locked() -> list[str]:
        # MySQL commits at every DDL statement, so a transaction would not exclude a second migrator.
        (held,) = database.execute_sql("SELECT GET_LOCK(%s, 60)", (_LOCK,)).fetchone()
        if held != 1:
            raise peewee.OperationalError(1205, "another migration holds the lock")
        database.execute_sql(f"SET SESSION lock_wait_timeout = {_WAIT}")
        try:
            return apply()
        finally:
            database.execute_sql("SET SESSION lock_wait_timeout = @@GLOBAL.lock_wait_timeout")
            database.execute_sql("SELECT RELEASE_LOCK(%s)", (_LOCK,))

    return read(database, locked) if is_mysql(database) else transact(database, apply)


def _runners(database: peewee.Database, plugins: Iterable[Plugin]) -> Iterator[tuple[str, Runner]]:
    """The core's migrations, and by plugin its own, which are recorded in a table of their own."""
    yield "", Runner(database, directory=str(Path(__file__).parent), table_name="sytq_migrations")
    for plugin in plugins:
        if plugin.migrations is not None:
            table = f"sytq_migrations_{plugin.name}"
            yield plugin.name, Runner(database, directory=str(plugin.migrations), table_name=table)


def _shown(plugin: str, name: str) -> str:
    return f"{plugin}/{name}" if plugin else name
