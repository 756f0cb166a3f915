"""A table of sytq that is gone is named, and made anew as it was."""

from __future__ import annotations

from pathlib import Path

import peewee

from sytq import plugins
from sytq.ledger.database import is_mysql, open_database
from sytq.ledger.migrations import migrate, pending
from sytq.ledger.models import MODELS
from sytq.plugins import Plugin

PLUGINS = plugins.find(()).plugins


def schema(database: peewee.Database) -> dict[str, object]:
    """Every table as the database describes it."""
    if is_mysql(database):
        tables = database.get_tables()
        return {name: database.execute_sql(f"SHOW CREATE TABLE `{name}`").fetchone()[1] for name in tables}
    query = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND sql IS NOT NULL"
    return dict(database.execute_sql(query).fetchall())


def test_each_lost_table_is_named_and_made_anew(database: peewee.Database) -> None:
    before = schema(database)
    ours = [name for name in database.get_tables() if name.startswith("sytq_") and "migrations" not in name]
    assert {model._meta.table_name for model in MODELS} <= set(ours)
    for name in ours:
        database.execute_sql(f"DROP TABLE {name}")
        assert pending(database, PLUGINS) == [f"table {name}"]
        assert migrate(database, PLUGINS) == [f"table {name}"]
        assert pending(database, PLUGINS) == []
        assert schema(database) == before, name
    assert migrate(database, PLUGINS) == []


def test_an_earlier_migration_than_the_last_applied_one_makes_its_tables(database: peewee.Database) -> None:
    before = schema(database)
    database.execute_sql("DELETE FROM sytq_migrations WHERE name = '0015_search'")
    for name in ("sytq_search", "sytq_search_progress"):
        database.execute_sql(f"DROP TABLE {name}")
    assert pending(database, PLUGINS) == ["0015_search"]
    assert migrate(database, PLUGINS) == ["0015_search"]
    assert schema(database) | {"sytq_migrations": before["sytq_migrations"]} == before  # MySQL's has the next number


def test_all_tables_lost_with_their_history_are_made(database: peewee.Database) -> None:
    before = schema(database)
    database.execute_sql("DROP TABLE sytq_migrations")
    assert "0001_ledger" in pending(database, PLUGINS)
    migrate(database, PLUGINS)
    assert (pending(database, PLUGINS), set(schema(database))) == ([], set(before))


def test_unique_keys_of_unfinished_tasks_come_back(database: peewee.Database) -> None:
    for task, state in (("a", "queued"), ("b", "succeeded")):
        values = f"'{task}', 't', '{state}', '1', 'k{task}'"
        database.execute_sql(f"INSERT INTO sytq_tasks (id, type, state, payload, unique_key) VALUES ({values})")
    database.execute_sql("DROP TABLE sytq_unique")
    migrate(database, PLUGINS)
    assert list(database.execute_sql("SELECT unique_key, task_id FROM sytq_unique").fetchall()) == [("ka", "a")]


def test_a_callers_table_stays_dropped(database: peewee.Database) -> None:
    database.execute_sql("DROP TABLE valuation_records")
    assert (pending(database, PLUGINS), migrate(database, PLUGINS)) == ([], [])


def test_migration_that_fails_elsewhere_refuses_no_start(tmp_path: Path) -> None:
    """Which tables there were is asked of an empty database, where a plugin's migration may fail in any way."""
    (tmp_path / "0001_rows.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE IF NOT EXISTS sytq_rows (id INTEGER)')\n"
        "    if str(db.database) == ':memory:':\n"
        "        raise KeyError('no row')\n"
    )
    plugin = Plugin("rows", migrations=tmp_path)
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(database, [plugin])
    assert pending(database, [plugin]) == []
