"""Errors in a plugin's file are found without the service and reported by file, line and reason."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sytq.errors import ConfigError
from sytq.testing.check import Report, check
from tests import forkserver

HEAD = """\
import asyncio, time
import requests as r
from time import sleep
from pydantic import BaseModel
from sytq import Backoff, task
from sytq.testing import TypeSuite

class Nothing(BaseModel):
    pass

"""
GOOD = "@task('one', payload=Nothing)\ndef one(ctx, payload):\n    return 1\n"


@pytest.fixture
def forked_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that loads the file is forked, which spares it the imports of sytq."""

    def run(command: list[str], *, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        _, _, module, *arguments = command
        return forkserver.run(module, arguments, environ=env)

    monkeypatch.setattr("sytq.testing.check.subprocess", SimpleNamespace(**{**vars(subprocess), "run": run}))


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of a file with this text below the imports, as `line: words`."""

    def problems(text: str, head: str = HEAD, **environ: str) -> list[str]:
        report = examine(tmp_path, text, head, **environ)
        return [f"{problem.line}: {problem.text}" for problem in report.problems]

    return problems


def examine(folder: Path, text: str, head: str = HEAD, **environ: str) -> Report:
    (folder / "plugin.py").write_text(head + text)
    mine = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")}
    return check(folder / "plugin.py", mine | environ)


@pytest.mark.usefixtures("forked_loading")
@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("def broken(:\n", "11: syntax error: invalid syntax"),
        ("import no_such_module\n" + GOOD, "11: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n", r"None: it declares no task type: no function has @task\(...\)"),
        ("raise SystemExit(3)\n", "11: SystemExit: 3"),
        ("import os; os._exit(3)\n", "None: it ended the process that loaded it: exit status 3"),
        (
            GOOD.replace("(ctx, payload)", "(ctx)"),
            r"11: task type 'one': its function takes \(ctx\); valid: \(ctx, payload\)",
        ),
        (
            GOOD.replace("'one'", "'webhook'"),
            "None: task type 'webhook': the name is taken, by .*plugins/webhook/__init__.py",
        ),
        (GOOD.replace("Nothing)", "Nothing, priority='top')"), "11: task type 'one': priority 'top' is not valid; .*"),
        (GOOD.replace("Nothing)", "Nothing, timeout='soon')"), "11: task type 'one': ValueError: .*soon.*"),
    ],
)
def test_a_file_that_fails_to_load_is_reported(found: Callable[..., list[str]], text: str, pattern: str) -> None:
    (problem,) = found(text)
    assert re.fullmatch(pattern, problem), problem


@pytest.mark.usefixtures("forked_loading")
def test_blocking_calls_and_missing_awaits_are_reported(found: Callable[..., list[str]]) -> None:
    text = """
@task("slow", payload=Nothing)
async def slow(ctx, payload):
    sleep(1)
    r.get("https://example.com")
    await asyncio.to_thread(time.sleep, 1)
    ctx.progress(1)
    await ctx.progress(1)
    await asyncio.gather(ctx.progress(2), ctx.progress(3))
    ctx.log.info("fine")

    def on_a_thread():
        time.sleep(1)

    await ctx.blocking(on_a_thread)
"""
    assert found(text) == [
        "14: Async functions should not call `time.sleep` (ASYNC251)",
        "15: Async functions should not call blocking HTTP methods (ASYNC210)",
        "17: ctx.progress(...) does nothing unless it is awaited",
    ]


def test_the_standard_tests_of_the_file_are_run(tmp_path: Path) -> None:
    suite = "class TestOne(TypeSuite):\n    type = one\n"
    good = examine(tmp_path, GOOD + suite)
    assert (good.types, good.problems, good.passed, good.skipped) == (["one"], [], 3, 2)
    broken = examine(tmp_path, GOOD.replace("return 1", "raise Exception('not today')") + suite)
    assert [problem.text for problem in broken.problems] == [
        "TestOne.test_a_crash_at_any_write_changes_nothing: Exception: not today",
        "TestOne.test_it_succeeds: retrying: Exception: not today",
    ]


def test_what_a_type_shows_is_run_and_its_fault_is_named(tmp_path: Path) -> None:
    suite = "class TestOne(TypeSuite):\n    type = one\n"
    (problem,) = examine(tmp_path, GOOD.replace("Nothing)", "Nothing, show=lambda payload: {})") + suite).problems
    assert problem.text == "task type 'one': show takes (payload); valid: (payload, result)"
    broken = GOOD.replace("Nothing)", "Nothing, panel=lambda ctx, task: [task['nothing']])") + suite
    assert [problem.text for problem in examine(tmp_path, broken).problems] == [
        "TestOne.test_it_succeeds: KeyError: 'nothing'"
    ]


@pytest.mark.usefixtures("forked_loading")
def test_the_configuration_is_applied_as_at_a_start(found: Callable[..., list[str]]) -> None:
    limits = "class Limits(BaseModel, extra='forbid'):\n    most: int = 3\n\n"
    text = limits + GOOD.replace("Nothing)", "Nothing, config=Limits)")
    paths = {"SYTQ_PLUGINS__PATHS": "[]"}
    assert found(text, **paths) == []
    (problem,) = [line for line in found(text, SYTQ_TYPES__ONE__MOST="many") if "types.one.most" in line]
    assert "value 'many' is not valid: not a whole number" in problem
    with pytest.raises(ConfigError, match=r"api\.port"):
        found(text, SYTQ_API__PORT="high")
