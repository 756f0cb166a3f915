"""docs/task-life.md names every script, key and state, its diagram uses them, and its commands work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

import sytq.broker
from sytq.broker.keys import Keys
from sytq.states import PRIORITIES, STATES, UNFINISHED
from tests.broker.bench import Bench
from tests.broker.model import UNKNOWN, documented_changes

DOCS = (Path(__file__).parents[2] / "docs/task-life.md").read_text()
CODE = set(re.findall(r"`([^`\n]+)`", DOCS))
SCRIPTS = {file.stem for file in (Path(sytq.broker.__path__[0]) / "scripts").glob("[!_]*.lua")}
COMMANDS = sorted(code for code in CODE if re.match(r"[A-Z]+( [A-Z]+)? \{sytq\}", code))


def keys() -> list[str]:
    one = Keys("sytq")
    found = [one.stream("<queue>", "<priority>"), one.lease("<loop>"), one.meter("<caller>")]
    found += [key for name, key in vars(one).items() if not name.startswith("_")]
    for name, method in vars(Keys).items():
        if name not in ("stream", "streams", "lease", "meter") and not name.startswith("_"):
            found.append(method(one, "<queue>"))
    return found


def test_every_script_is_named() -> None:
    assert len(SCRIPTS) > 10
    assert set() == SCRIPTS - CODE


def test_documented_keys_match_the_code() -> None:
    documented = re.findall(r"^\| `(\{sytq\}:[^`]+)` \|", DOCS, re.MULTILINE)
    assert sorted(documented) == sorted(keys())


def test_the_diagram_has_every_state_and_only_scripts() -> None:
    changes = documented_changes()
    assert {state for change in changes for state in change[:2]} == {*STATES, UNKNOWN}
    assert {script for *_, script in changes} <= SCRIPTS
    assert {before for before, *_ in changes} >= set(UNFINISHED), "a state that nothing leads out of"


def test_every_state_has_a_place_and_a_row() -> None:
    places, changes = (DOCS.split(f"## {title}")[1].split("\n## ")[0] for title in ("Where it is", "Every change"))
    for state in STATES:
        assert f"`{state}`" in places, state
        assert f"`{state}`" in changes, state


@pytest.mark.parametrize("command", COMMANDS)
def test_redis_accepts_the_documented_commands(redis_url: str, command: str) -> None:
    bench = Bench(redis_url)
    bench.dispatch("ID")
    bench.dispatch("later", due_ms=bench.now_ms() + 60_000)
    bench.fetch("w")
    live = bench.live("ID") or []
    words = [live[8] if word == "ENTRY" else word for word in command.split()]
    connection = redis.Redis.from_url(redis_url).connection_pool.get_connection()
    connection.send_command(*words)
    answer = connection.read_response()
    connection.disconnect()
    if "parked" not in command and "ID" not in command.replace("live ID", ""):
        assert answer not in (None, 0, []), "it shows nothing"


def test_state_index_example_has_all_fields() -> None:
    example, names = re.findall(r"^    (\w+ *\|.*)$", DOCS, re.MULTILINE)
    assert len(example.split("|")) == len(names.split("|")) == 9
    assert example.split("|")[0] in STATES
    assert example.split("|")[3] in PRIORITIES
