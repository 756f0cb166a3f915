"""The service with one third-party plugin and without the built-in plugins: the core knows no plugin."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers import poll
from tests.terminal import PROGRAM

ROOT = Path(__file__).parents[2]
NAMES = ("llm", "webhook", "callback", "bulk")
#: Where a name means no plugin: a column of `sytq_tasks` filled by submissions, and the command `sytq bulk`.
OTHER_MEANINGS = {
    "callback": ("sytq/ledger/", "sytq/service/submission.py", "sytq/api/dashboard/new_task.py"),
    "bulk": ("sytq/cli/commands.py",),
}
#: The replaced systems' API and the demonstration.
MAY_NAME_PLUGINS = ("sytq/api/compat/", "sytq/dev/")

WITHOUT_BUILT_INS = """
import importlib.metadata as metadata

entry_points = metadata.entry_points
metadata.entry_points = lambda **which: metadata.EntryPoints(
    point for point in entry_points(**which) if not point.value.startswith("sytq_plugins")
)
"""
SHOP = """
from pathlib import Path

from peewee import CharField, Model
from pydantic import BaseModel

from sytq import Context, Plugin, Transaction, task
from sytq.config import Section


class Shop(Section):
    town: str = "Bath"


class ShopSettings(Section):
    shop: Shop = Shop()


class Sale(Model):
    item = CharField()
    town = CharField()

    class Meta:
        table_name = "shop_sales"


def watch(runtime):
    def look():
        runtime.submitter.submit([runtime.submitter.prepare("sell", {"item": "by the loop"}, unique_key="loop")])
        return 60.0

    return look


plugin = Plugin(
    "shop",
    settings=ShopSettings,
    models=(Sale,),
    migrations=Path(__file__).parent / "migrations",
    loops={"shop.watch": watch},
)


class Item(BaseModel):
    item: str


@task("sell", payload=Item)
def sell(ctx: Context, payload: Item) -> str:
    "Record a sale."
    town = ctx.settings.of(ShopSettings).shop.town

    def write(tx: Transaction) -> None:
        Sale.create(item=payload.item, town=town)

    ctx.transaction(write)
    return town
"""
MIGRATION = """
def up(migrator, db):
    db.execute_sql("CREATE TABLE shop_sales (id INTEGER PRIMARY KEY, item VARCHAR(64), town VARCHAR(64))")
"""
#: An installed package with commands, one of them broken.
ENTRY_POINTS = """
[sytq.commands]
sales = shop_commands:sales
ls = shop_commands:sales
stock = shop_commands:stock
"""
COMMANDS = """
from sytq import Command

sales = Command("Shop", "shop_sales:sales", "Count the sales.")
"""
SALES = """
from sytq.cli.options import File, open_runtime

print("imported")

def sales(file: File = None) -> None:
    "Count the sales."
    print(open_runtime(file).database.execute_sql("SELECT COUNT(*) FROM shop_sales").fetchone()[0], "sold")
"""
#: In one process, as each start costs a second: commands, the API and the types.
PROBE = """
import json
from typer.testing import CliRunner
from sytq.api import create_app
from sytq.cli import app
from sytq.config import load
from sytq.tasktypes.registry import Registry

commands = {words: CliRunner().invoke(app, words.split()) for words in ("db migrate", "db check", "config show")}
create_app()
registry = Registry.load(load())
print(json.dumps({
    "output": {words: [done.exit_code, done.output] for words, done in commands.items()},
    "types": sorted(declared.name for declared in registry),
    "quarantined": [str(each) for each in registry.quarantined],
}))
"""


@pytest.fixture
def shop(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setattr("tests.installation.make_tables", lambda database: None)  # `sytq db migrate` makes them
    site, plugins = tmp_path / "site", tmp_path / "plugins"
    site.mkdir()
    (plugins / "migrations").mkdir(parents=True)
    (site / "sitecustomize.py").write_text(WITHOUT_BUILT_INS)
    (site / "shop-1.0.dist-info").mkdir()
    (site / "shop-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (site / "shop-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "shop_commands.py").write_text(COMMANDS)
    (site / "shop_sales.py").write_text(SALES)
    (plugins / "shop.py").write_text(SHOP)
    (plugins / "migrations" / "0001_sales.py").write_text(MIGRATION)
    made = Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        PYTHONPATH=f"{site}:{ROOT}",
        SYTQ_PLUGINS__PATHS=json.dumps([str(plugins)]),
        SYTQ_SHOP__TOWN="Wells",
    )
    del made.environ["SYTQ_SCHEDULES__CLEANUP__ENABLED"]  # its type is not installed
    yield made
    made.close()


def run(shop: Installation, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=shop.folder, env=shop.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_third_party_plugin_works_without_the_built_in_plugins(shop: Installation) -> None:
    probed = json.loads(run(shop, "-c", PROBE).splitlines()[-1])
    output = {words: text for words, (status, text) in probed["output"].items() if status == 0}
    assert "shop/0001_sales" in output["db migrate"] and "up to date" in output["db check"]
    tables = set(shop.runtime.database.get_tables())
    assert {"sytq_tasks", "sytq_migrations_shop", "shop_sales"} <= tables
    assert not tables & {"valuation_records", "sytq_spend", "sytq_budgets", "sytq_failing_hosts"}
    assert (probed["types"], probed["quarantined"]) == (["sell"], [])
    shown = output["config show"]
    assert [line.split()[1:] for line in shown.splitlines() if line.startswith("shop.town ")] == [
        ["Wells", "env", "SYTQ_SHOP__TOWN"]
    ]
    assert "llm." not in shown
    shop.start_worker(fresh=True)  # a forked one has imported the built-in plugins
    callback = {"url": "https://example.com/"}  # no type of this installation sends callbacks
    sold = shop.runtime.submitter.prepare("sell", {"item": "tea"}, callback=callback)
    shop.runtime.submitter.submit([sold])
    assert json.loads(shop.wait_state(sold.id, "succeeded").result) == "Wells"

    def sales() -> set[tuple[str, str]]:
        return set(shop.runtime.database.execute_sql("SELECT item, town FROM shop_sales").fetchall())

    poll(lambda: sales() == {("tea", "Wells"), ("by the loop", "Wells")}, message=lambda: f"both are sold: {sales()}")


def test_third_party_command_is_listed_without_its_import_and_runs(shop: Installation) -> None:
    shown = run(shop, "-m", "sytq.cli", "--help")
    assert "\nShop:\n  sales      Count the sales.\n" in shown and "imported" not in shown
    assert "\n  stock      Cannot be loaded: AttributeError: " in shown
    assert "webhook" not in shown and "spend" not in shown
    assert "List the latest tasks" in shown  # the package's `ls` does not replace the core's
    run(shop, "-m", "sytq.cli", "db", "migrate")
    assert run(shop, "-m", "sytq.cli", "sales") == "imported\n0 sold\n"
    command = [sys.executable, "-m", "sytq.cli", "stock"]
    broken = subprocess.run(command, cwd=shop.folder, env=shop.environ, capture_output=True, text=True, timeout=60)
    assert broken.returncode == 1
    assert broken.stderr.startswith("sytq: the plugin of 'stock' is broken: AttributeError: ")
    asked = shop.environ | {"_SYTQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "sytq --v"}
    completed = subprocess.run([PROGRAM], cwd=shop.folder, env=asked, capture_output=True, text=True, timeout=60)
    assert "--version" in completed.stdout and (completed.stderr, "imported" in completed.stdout) == ("", False)


def test_no_module_of_the_core_names_a_plugin() -> None:
    found = []
    for file in sorted((ROOT / "sytq").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name.startswith(MAY_NAME_PLUGINS):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            words = [node.value] if isinstance(node, ast.Constant) else []
            words += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [
                (name, word)
                for word in words
                if (word in NAMES and not name.startswith(OTHER_MEANINGS.get(word, ())))
                or str(word).startswith("sytq_plugins")
            ]
    assert found == []
