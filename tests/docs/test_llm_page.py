"""The configuration that docs/llm.md prints loads, and its callback has the fields of the real one."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from sytq_plugins.llm import callback

from sytq import config

PAGE = (Path(__file__).parents[2] / "docs" / "llm.md").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)]
CONFIGURATIONS = [block for block in BLOCKS if re.match(r"(providers|llm|prices):", block)]


@pytest.mark.parametrize("block", CONFIGURATIONS)
def test_configuration_of_the_page_loads(block: str, tmp_path: Path) -> None:
    if block.startswith("prices:"):  # the only one that is printed without what stands above it
        block = "providers:\n  deepseek:\n    models:\n      chat:\n" + textwrap.indent(block, " " * 8)
    # What every provider needs, and not every block repeats.
    names = [name.upper() for name in yaml.safe_load(block).get("providers", {})]
    environ = {f"SYTQ_PROVIDERS__{name}__BASE_URL": "https://provider.example/v1" for name in names}
    environ |= {f"SYTQ_PROVIDERS__{name}__MODEL": "chat" for name in names}
    (tmp_path / "sytq.yaml").write_text(block)
    config.load(str(tmp_path / "sytq.yaml"), environ=environ)


def test_configurations_of_the_page_are_found() -> None:
    assert len(CONFIGURATIONS) >= 5


def test_callback_has_the_printed_fields() -> None:
    (printed,) = (json.loads(block) for block in BLOCKS if block.startswith('{"task_id"'))
    body = callback.body("valuation_records", 123, "0198", report="r", error=None)
    assert json.loads(body).keys() == printed.keys()
