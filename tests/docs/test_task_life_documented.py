"""docs/task-life.md names every script, every key and every state."""

from __future__ import annotations

from pathlib import Path

import pytest

import sytq.broker
from sytq.broker.keys import Keys
from sytq.states import STATES

PAGE = (Path(__file__).parents[2] / "docs" / "task-life.md").read_text()
SCRIPTS = sorted(path.stem for path in Path(sytq.broker.__file__).parent.glob("*.lua") if not path.name.startswith("_"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_named(script: str) -> None:
    assert f"`{script}`" in PAGE or f"`{script}.lua`" in PAGE


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_named(state: str) -> None:
    assert state in PAGE


@pytest.mark.parametrize("key", sorted(name for name in vars(Keys) if not name.startswith("_") and name != "streams"))
def test_every_key_is_named(key: str) -> None:
    keys = Keys("sytq")
    value = getattr(keys, key)
    shown = value if isinstance(value, str) else value("Q", "P") if key == "stream" else value("Q")
    assert shown.split("}:")[1].split(":")[0] in PAGE
