"""The examples of docs/plugins.md are run, word for word; the session at its top is in test_newcomer_plugin.py."""

from __future__ import annotations

import datetime as dt
import http.server
import inspect
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import sytq
from sytq import testing
from sytq.api.dashboard.blocks import shown
from sytq.blocks import Fields, Markdown, Money, State
from sytq.config import load
from sytq.errors import ConfigError, InvalidInput
from sytq.plugins import COMMANDS, GROUP, load_file
from sytq.tasktypes.registry import Registry, declared_in
from sytq.testing import Harness
from tests.installation import Installation

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
#: For each type: a payload, the version in which it was submitted, and the result.
RUNS: dict[str, tuple[Any, int | None, Any]] = {
    "tidy": ({}, None, None),
    "parcel": ({"address": "1, High Street, Bath"}, 1, "Bath"),
    "look-up": ({"key": "a"}, None, "alpha"),
    "invoice": ({"order_id": 7, "customer": {"id": "c1"}}, None, None),
    "order": ({"customer": "Ada"}, None, {"cents": 300}),
    "offer": ({"customer": "Ada", "text": "*Tea*"}, None, {"cents": 300}),
    "count-stock": ({}, None, "main"),
    "restock": ({"item": "tea"}, None, "tea to main"),
    "fetch-item": ({"item": "tea", "count": 2}, None, "2 tea"),
    "write-rows": ({"rows": ["a", "b"]}, None, 2),
}


def example(words: str) -> str:
    """The only example of the page with these words."""
    (found,) = [text for text in EXAMPLES if words in text]
    return str(found)


class Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def address() -> Iterator[str]:
    """The URL of a server that answers GET with 204."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def with_example(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "ping.py").write_text(example('@task("ping"'))
    made = Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        SYTQ_PLUGINS__PATHS=json.dumps([str(plugins)]),
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
    )
    yield made
    made.close()


def test_the_complete_type_runs_as_printed(with_example: Installation, address: str) -> None:
    (statement,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    task_id = re.search(r"VALUES \('([^']+)'", statement)
    assert task_id
    with_example.runtime.database.execute_sql(statement.replace("https://example.com", address))
    with_example.start_worker()
    row = with_example.wait_state(task_id[1], "succeeded")
    assert json.loads(row.result) == {"status": 204}


def test_example_tests_pass_as_printed(tmp_path: Path) -> None:
    (tmp_path / "ping.py").write_text(example('@task("ping"'))
    (tmp_path / "test_morning.py").write_text(example("def test_a_slow_morning"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "ping.py", "test_morning.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b5 passed, 1 skipped", done.stdout), done.stdout


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_as_printed(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name.replace('-', '_')}_example.py"
    file.write_text(example(f'@task("{name}"'))
    (declared,) = declared_in(load_file(file))
    payload, version, result = RUNS[name]
    with Harness(declared) as harness:
        run = harness.submit(payload, version=version)
        assert (run.start(), run.result) == ("succeeded", result), run.error


def test_no_example_is_left_out() -> None:
    run = {"ping", *RUNS}
    assert sorted(re.findall(r'@task\("([^"]+)"', "".join(EXAMPLES))) == sorted(run)
    assert len(EXAMPLES) == len(run) + 2  # the tests of `ping`, and a command
    for name, (_, version, _) in RUNS.items():
        assert version is None or "upgrade=" in example(f'@task("{name}"')


def test_examples_behave_as_their_text_says(tmp_path: Path) -> None:
    def declared(name: str) -> sytq.Declaration:
        file = tmp_path / f"{name.replace('-', '_')}_said.py"
        file.write_text(example(f'@task("{name}"'))
        return declared_in(load_file(file))[0]

    with Harness(declared("order")) as harness:
        assert harness.type.shown({"customer": "Ada"}, {"cents": 300}) == {"customer": "Ada", "price": "3.00 EUR"}
        assert harness.type.shown({"customer": "Ada"}, None) == {"customer": "Ada"}
    with Harness(declared("offer")) as harness:
        assert harness.type.blocks({"customer": "Ada", "text": "*Tea*"}, {"cents": 300}) == [
            Fields({"customer": "Ada", "price": Money(Decimal(3), "EUR")}),
            Markdown("*Tea*"),
        ]
        attempt = {"attempt": 1, "outcome": "done", "started_at": "2026-07-01T08:00:00.000Z"}
        assert harness.type.panel is not None
        _, table = harness.type.panel(None, {"attempts_made": [attempt]})
        assert table.rows == [(1, State("done"), dt.datetime(2026, 7, 1, 8, tzinfo=dt.UTC))]
    with Harness(declared("look-up")) as harness:
        run = harness.submit({"key": "b"})
        assert (run.start(), run.error) == ("dead", "there is no 'b'")
    stock = declared("count-stock")
    assert str(stock.options.schedule) == str(sytq.Schedule(cron="0 3 * * *", timezone="Europe/Berlin"))
    with Harness(stock) as harness:
        assert "count-stock.dead" in harness.runtime.registry


def test_page_of_the_dashboard_shows_and_does_what_its_text_says(tmp_path: Path) -> None:
    file = tmp_path / "shelves_example.py"
    file.write_text(example("DashboardPage("))
    module = load_file(file)
    page = module.plugin.pages["shelves"]
    with Harness(declared_in(module)[0]) as harness:
        context = sytq.DashboardContext(harness.runtime, "ada", None, {"only": "empty"})
        _, table = page.read(context)
        assert [row[:2] for row in table.rows] == [("salt", 0)]
        assert page.actions["order"](context, {"item": "salt", "count": "3"}) == "salt is ordered."
        with pytest.raises(InvalidInput, match="count: not a number"):
            page.actions["order"](context, {"item": "salt", "count": "many"})
        assert [block.kind for block in shown(page.read(context))] == ["links", "table"]


def test_entry_points_are_in_the_groups_that_sytq_loads() -> None:
    types, commands = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert tomllib.loads(types) == {"project": {"entry-points": {GROUP: {"shop": "shop.tasks"}}}}
    assert tomllib.loads(commands) == {"project": {"entry-points": {COMMANDS: {"sales": "shop.commands:sales"}}}}


def test_command_example_is_a_command(tmp_path: Path) -> None:
    file = tmp_path / "commands_example.py"
    file.write_text(example("Command("))
    assert load_file(file).sales == sytq.Command("Shop", "shop.sales:sales", "Count the sales of a day.")


def test_a_type_that_checks_its_configuration_runs_as_printed(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "tidy.py").write_text(example('@task("tidy"'))
    environ = {"SYTQ_PLUGINS__PATHS": json.dumps([str(tmp_path)])}
    registry = Registry.load(load(environ=environ | {"SYTQ_TYPES__TIDY__KEEP": "2h"}))
    assert (registry.get("tidy").config.keep, registry.quarantined) == (7200.0, [])
    with pytest.raises(ConfigError, match=r"types\.tidy\.kept: no such setting; did you mean types\.tidy\.keep\?"):
        Registry.load(load(environ=environ | {"SYTQ_TYPES__TIDY__KEPT": "2h"}))


def test_every_public_name_and_context_member_is_explained() -> None:
    offers = {name for name in vars(sytq.Context) | vars(sytq.AsyncContext) if not name.startswith("_")}
    for name in offers:
        assert f"ctx.{name}" in PAGE, name
    for name in set(sytq.__all__) - {"TaskType", "Transaction", "Cancelled"}:
        assert name in PAGE, name


def test_every_option_of_task_is_explained() -> None:
    for name in set(inspect.signature(sytq.task).parameters) - {"name"}:
        assert re.search(rf"\b{name}=|`{name}`", PAGE), name


def test_every_argument_of_plugin_is_explained() -> None:
    table = PAGE.partition("## More than task types")[2].partition("\n## ")[0]
    for name in set(inspect.signature(sytq.Plugin).parameters) - {"name"}:
        assert f"| `{name}` |" in table, name


def test_every_member_of_sytq_testing_is_explained() -> None:
    for name in set(testing.__all__) - {"Clock", "FakeHttp", "Run"}:
        assert f"`{name}" in PAGE, name
    for name in ("Harness", "Run", "Clock", "FakeHttp"):
        offers = [each for each in vars(getattr(testing, name)) if not each.startswith("_")]
        for offer in set(offers) - {"call", "options", "request", "close", "get", "stop", "forget"}:
            assert re.search(rf"\b{offer}\b", PAGE.partition("## Tests")[2]), f"{name}.{offer}"
