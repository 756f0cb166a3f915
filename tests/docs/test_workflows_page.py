"""The example of docs/workflows.md is run, word for word, and its tree looks as printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.ledger.models import Task
from tests.installation import Installation
from tests.terminal import sytq

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text()


@pytest.fixture
def with_example(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "album.py").write_text(example)
    url = f"sqlite:///{tmp_path / 'sytq.db'}"
    made = Installation(tmp_path, url, redis_url, SYTQ_PLUGINS__PATHS=json.dumps([str(plugins)]))
    yield made
    made.close()


def run(installation: Installation, *arguments: str) -> str:
    done = sytq(*arguments, environ=installation.environ)
    assert done.returncode == 0, done
    return done.stdout


def test_the_example_fans_out_and_its_tree_looks_as_printed(with_example: Installation) -> None:
    with_example.start_worker()
    submission = re.search(r"sytq send album '(.*)'\n", PAGE)
    assert submission
    root = run(with_example, "send", "album", submission[1]).strip()
    result = with_example.wait_state(root, "succeeded").result
    index = json.loads(result or "null")["index"]
    ended = json.loads(with_example.wait_state(index, "succeeded").result or "null")
    assert (len(ended["shown"]), ended["missing"]) == (2, ["notes.txt is no picture"])
    printed = PAGE.partition("sytq tasks tree")[2].partition("\n\n")[2].partition("\n\n|")[0]
    uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
    wanted = [uuid.sub("ID", line.removeprefix("    ")).rstrip() for line in printed.splitlines()]
    lines = [uuid.sub("ID", line).rstrip() for line in run(with_example, "tasks", "tree", root).splitlines()]
    assert lines[:2] == wanted[:2]
    assert sorted(lines) == sorted(wanted)  # the pictures were submitted together, in any order
    assert json.loads(run(with_example, "tasks", "tree", root, "--json"))["truncated"] is False
    below = run(with_example, "tasks", "tree", root, "--limit", "2")
    assert "3 more below it" in below


def test_the_chain_is_accepted_as_printed(with_example: Installation) -> None:
    body = re.search(r"/v2/tasks -d '(\{.*?\})'\n", PAGE, re.DOTALL)
    assert body
    with_example.start_api()
    reply = with_example.request("POST", "/v2/tasks", json.loads(body[1]))
    assert reply.status == 202, reply
    with_example.start_worker()
    *_, last = reply.json["then"]
    with_example.wait_state(last["id"], "succeeded")
    with with_example.runtime.database.connection_context():
        assert Task.select().where(Task.parent == reply.json["id"], Task.state == "succeeded").count() == 4
