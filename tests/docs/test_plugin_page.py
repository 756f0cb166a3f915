"""The example of docs/plugins.md is run, word for word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sytq
from tests.receiver import Receiver
from tests.workers import Installation

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


@pytest.fixture
def with_example(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "ping.py").write_text(code)
    made = Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        SYTQ_PLUGINS__PATHS=json.dumps([str(plugins)]),
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
    )
    yield made
    made.close()


def test_the_first_type_runs_as_printed(with_example: Installation) -> None:
    receiver = Receiver(200)
    (statement,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    task_id = re.search(r"VALUES \('([^']+)'", statement)
    assert task_id
    with_example.runtime.database.execute_sql(statement.replace("https://example.com", receiver.url))
    with_example.start_worker()
    row = with_example.wait_state(task_id[1], "succeeded")
    assert json.loads(row.result) == {"status": 501}  # the receiver knows POST only
    receiver.close()


def test_every_public_name_and_every_offer_of_the_context_is_explained() -> None:
    offers = {name for name in vars(sytq.Context) | vars(sytq.AsyncContext) if not name.startswith("_")}
    for name in offers:
        assert f"ctx.{name}" in PAGE, name
    for name in set(sytq.__all__) - {"TaskType", "Transaction", "Cancelled"}:
        assert name in PAGE, name
