"""docs/jobs.md: its payloads and configurations are valid, and it has every key and field."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from sytq_plugins.command import CommandType
from sytq_plugins.http import Request

from sytq.config import load
from sytq.tasktypes.registry import Registry
from sytq.tasktypes.tasktype import TaskType
from tests.installation import Installation
from tests.receiver import Receiver

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text("utf-8")
SECTIONS = {name: text for name, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}
TYPES = {declared.name: declared for declared in Registry.load(load(environ={}))}
DOCUMENTED = [TYPES[name] for name in SECTIONS if name in TYPES]


def test_types_of_contract_d_are_documented() -> None:
    # Only installed types can be documented.
    assert {"default", "email", "report", "backup", "sync", "cleanup"} & TYPES.keys() <= SECTIONS.keys()


@pytest.mark.parametrize("declared", DOCUMENTED, ids=lambda declared: declared.name)
def test_every_field_of_the_payload_and_every_key_is_documented(declared: TaskType) -> None:
    text = SECTIONS[declared.name]
    said = set(re.findall(r"`(\w+)[`:]", text))
    assert set(declared.payload.model_fields) <= said
    if isinstance(declared.config, BaseModel):
        table = text.partition(f"| `types.{declared.name}` |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
        assert keys == set(type(declared.config).model_fields)


@pytest.mark.parametrize("declared", DOCUMENTED, ids=lambda declared: declared.name)
def test_example_payloads_are_valid(declared: TaskType) -> None:
    for example in re.findall(r"```json\n(.*?)```", SECTIONS[declared.name], re.DOTALL):
        declared.parse(json.loads(example))


def test_example_configurations_are_valid(tmp_path: Path) -> None:
    for number, example in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)):
        assert isinstance(yaml.safe_load(example), dict)
        file = tmp_path / f"{number}.yaml"
        file.write_text(example)
        assert Registry.load(load(str(file), environ={})).quarantined == []


def test_the_types_without_python_run_as_printed(tmp_path: Path, redis_url: str) -> None:
    (example,) = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "http:" in text]
    receiver = Receiver(200)
    types = yaml.safe_load(example.replace("https://crm.example.org", receiver.url.removesuffix("/hook")))["types"]
    url = f"sqlite:///{tmp_path / 'sytq.db'}"
    installation = Installation(tmp_path, url, redis_url, SYTQ_TYPES=json.dumps(types))
    (tmp_path / "some file").write_bytes(b"x")
    try:
        installation.start_worker()
        [payload] = re.findall(r"type=order-paid' -d '(.*?)'", PAGE)
        prepare = installation.runtime.submitter.prepare
        tasks = [
            prepare("order-paid", json.loads(payload)),
            prepare("checksum", {"file": str(tmp_path / "some file")}),
        ]
        installation.runtime.submitter.submit(tasks)
        paid, checksum = (installation.wait_state(task.id, "succeeded") for task in tasks)
        assert json.loads(paid.result) == {"status": 200, "body": ""}
        (request,) = receiver.received
        assert request.path == "/orders/7/paid"
        assert json.loads(request.body) == {"order": 7, "note": "paid 12.5 EUR", "by": "sytq"}
        assert request.headers["authorization"] == "Bearer s3cret"
        assert json.loads(checksum.result)["output"].startswith(hashlib.sha256(b"x").hexdigest())
    finally:
        installation.close()
        receiver.close()


@pytest.mark.parametrize("model", [Request, CommandType])
def test_every_key_of_a_type_without_python_is_documented(model: type[BaseModel]) -> None:
    heading = "http" if model is Request else "command"
    text = PAGE.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    keys = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"http"}
    assert keys == set(model.model_fields) - {"payload"}
