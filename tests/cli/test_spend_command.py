"""`sytq spend` over a real ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

from sytq_plugins.llm import command, spend
from sytq_plugins.llm.spend import SpendRow, Tokens
from typer.testing import CliRunner

from sytq.cli import app
from sytq.config import load
from sytq.ledger.database import transact
from sytq.runtime import build
from tests.tables import make_tables


def test_command_offers_every_grouping_of_the_ledger() -> None:
    assert list(get_args(get_type_hints(command.spend)["by"])) == list(spend.GROUPS)


def test_spend_is_printed_as_table_and_json(tmp_path: Path) -> None:
    environ = {"SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}", "COLUMNS": "200"}
    database = build(load(environ=environ)).database
    make_tables(database)

    def three_calls() -> None:
        for number, (model, cost) in enumerate([("small", 5), ("large", 70_000_000_000), ("small", None)]):
            call = SpendRow(
                task_id="0198c0de-0000-7000-8000-000000000001", token=1, number=number, step="node-0", type="llm",
                provider="p", model=model,
            )  # fmt: skip
            reserved = spend.begin(call, 0, {})
            spend.settle(reserved, "ok", Tokens(10, 1, 20, 2), cost)

    transact(database, three_calls)
    done = CliRunner().invoke(app, ["spend", "--by", "model", "--since", "1h", "--json"], env=environ)
    report = json.loads(done.output)
    assert (report["currency"], report["by"]) == ("USD", "model")
    assert report["sums"][0] == {
        "provider": "p", "model": "large", "calls": 1, "prompt": 10, "cached": 1, "completion": 20, "reasoning": 2,
        "cost": "0.07", "unknown": 0,
    }  # fmt: skip
    assert [(line["model"], line["calls"], line["cost"], line["unknown"]) for line in report["sums"]] == [
        ("large", 1, "0.07", 0),
        ("small", 2, "0.000000000005", 1),
    ]
    shown = CliRunner().invoke(app, ["spend"], env=environ)
    assert shown.exit_code == 0
    assert "0.070000000005" in shown.output
