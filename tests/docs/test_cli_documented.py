"""docs/cli.md has every command and option, with valid examples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sytq.cli import app

DOCUMENT = (Path(__file__).parents[2] / "docs/cli.md").read_text("utf-8")
#: Said once, at the top of the page.
COMMON = {"--file", "--help"}


def commands(command: Any = None, path: str = "sytq") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if not below:
        yield path, command
    for name, inner in (below or {}).items():
        yield from commands(inner, f"{path} {name}")


COMMANDS = dict(commands())


def section(path: str) -> str:
    return DOCUMENT.partition(f"\n### `{path}`\n")[2].partition("\n##")[0]


def long_options(command: Any) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("--")}


def test_the_walk_finds_commands_at_every_depth() -> None:
    assert {"sytq dev", "sytq worker", "sytq db migrate", "sytq ls", "sytq dead replay"} <= set(COMMANDS)
    assert {"--limit", "--json", "--file"} <= long_options(COMMANDS["sytq ls"])


def test_the_page_has_the_commands_and_no_others() -> None:
    assert sorted(re.findall(r"^### `(sytq [a-z ]+)`$", DOCUMENT, re.MULTILINE)) == sorted(COMMANDS)
    assert all(name in DOCUMENT.partition("\n## ")[0] for name in COMMON - {"--help"})


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_is_documented_with_its_options(path: str) -> None:
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section(path)))
    real = long_options(COMMANDS[path])
    assert real - COMMON - mentioned == set(), f"{path}: not in docs/cli.md"
    assert mentioned - real == set(), f"{path}: in docs/cli.md and no option of it"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_a_valid_example(path: str) -> None:
    examples = re.findall(r"^    (sytq .+)$", section(path), re.MULTILINE)
    assert examples, f"docs/cli.md: {path} has no example"
    for example in examples:
        words = shlex.split(example.partition(" < ")[0])
        name = path.split()
        assert words[: len(name)] == name, example
        COMMANDS[path].make_context(path, words[len(name) :])  # reads the arguments, and runs nothing
