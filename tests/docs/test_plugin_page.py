"""The example of docs/plugins.md is run, word for word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sytq
from sytq.config import load
from sytq.errors import ConfigError
from sytq.registry import Registry
from tests.receiver import Receiver
from tests.workers import Installation

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


def example(words: str) -> str:
    """The page's one example that has these words."""
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if words in text]
    return str(found)


@pytest.fixture
def with_example(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    first = example('@task("ping"')
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "ping.py").write_text(first)
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


def test_a_type_that_checks_its_configuration_runs_as_printed(tmp_path: Path, redis_url: str) -> None:
    tidy = example('@task("tidy"')
    imports = (
        "from pathlib import Path\nfrom pydantic import BaseModel, ConfigDict, SecretStr\n"
        "from sytq import Context, task\nfrom sytq.durations import Duration\nclass Nothing(BaseModel): pass\n"
    )
    (tmp_path / "tidy.py").write_text(imports + tidy)
    environ = {"SYTQ_PLUGINS__PATHS": json.dumps([str(tmp_path)])}
    registry = Registry.load(load(environ=environ | {"SYTQ_TYPES__TIDY__KEEP": "2h"}))
    assert (registry.get("tidy").config.keep, registry.quarantined) == (7200.0, [])
    with pytest.raises(ConfigError, match=r"types\.tidy\.kept: no such setting; did you mean types\.tidy\.keep\?"):
        Registry.load(load(environ=environ | {"SYTQ_TYPES__TIDY__KEPT": "2h"}))


def test_every_public_name_and_every_offer_of_the_context_is_explained() -> None:
    offers = {name for name in vars(sytq.Context) | vars(sytq.AsyncContext) if not name.startswith("_")}
    for name in offers:
        assert f"ctx.{name}" in PAGE, name
    for name in set(sytq.__all__) - {"TaskType", "Transaction", "Cancelled"}:
        assert name in PAGE, name
