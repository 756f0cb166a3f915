"""docs/jobs.md: its payloads and configurations are taken as printed, and no key or field is missing there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from sytq.config import load
from sytq.plugin import Registry, TaskType

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text("utf-8")
SECTIONS = {name: text for name, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}
TYPES = {declared.name: declared for declared in Registry.load(load(environ={}))}
DOCUMENTED = [TYPES[name] for name in SECTIONS if name in TYPES]


def test_the_types_of_contract_d_are_there() -> None:
    # Grows with the types: what is not installed cannot be documented.
    assert {"default", "email", "report", "backup", "sync", "cleanup"} & TYPES.keys() <= SECTIONS.keys()


@pytest.mark.parametrize("declared", DOCUMENTED, ids=lambda declared: declared.name)
def test_every_field_of_the_payload_and_every_key_is_documented(declared: TaskType) -> None:
    text = SECTIONS[declared.name]
    said = set(re.findall(r"`(\w+)[`:]", text))
    assert set(declared.payload.model_fields) <= said
    if declared.config_model is not None:
        table = text.partition(f"| `types.{declared.name}` |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
        assert keys == set(declared.config_model.model_fields)


@pytest.mark.parametrize("declared", DOCUMENTED, ids=lambda declared: declared.name)
def test_the_payloads_are_good(declared: TaskType) -> None:
    for example in re.findall(r"```json\n(.*?)```", SECTIONS[declared.name], re.DOTALL):
        declared.parse(json.loads(example))


def test_the_configurations_are_good(tmp_path: Path) -> None:
    for number, example in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)):
        assert isinstance(yaml.safe_load(example), dict)
        file = tmp_path / f"{number}.yaml"
        file.write_text(example)
        assert Registry.load(load(str(file), environ={})).quarantined == []
