"""Checks a plugin's file: reads its text, and loads it in a separate process (`python -m sytq.testing.check`)."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import traceback
import unittest
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from sytq.config import Settings, load
from sytq.errors import ConfigError
from sytq.plugins import load_file
from sytq.tasktypes.configured import TypeFactory
from sytq.tasktypes.declaration import Declaration
from sytq.tasktypes.registry import Registry, declared_in
from sytq.testing.reading import Problem, read
from sytq.testing.suite import TypeSuite

_DEADLINE = 120.0


@dataclass
class Report:
    """The findings. `passed` and `skipped` are its standard tests."""

    types: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    passed: int = 0
    skipped: int = 0


def check(file: Path, environ: Mapping[str, str], *, tests: bool = True) -> Report:
    """Read a file and, if it is readable, load it in a process with these variables; with its `tests`.

    Raises ConfigError for an unusable configuration, and OSError for a file it cannot read.
    """
    problems = read(file.read_bytes())
    if any(problem.fatal for problem in problems):
        return Report(problems=problems)
    with tempfile.TemporaryDirectory(prefix="sytq-check-") as folder:
        said = Path(folder) / "report"
        command = [sys.executable, "-m", "sytq.testing.check", str(file.absolute()), str(said), str(int(tests))]
        try:
            done = subprocess.run(
                command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE
            )
        except subprocess.TimeoutExpired:
            return Report(problems=[*problems, Problem(None, f"loading it took longer than {_DEADLINE:g} s", True)])
        if not said.exists():
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            return Report(problems=[*problems, Problem(None, f"it ended the process that loaded it: {last}", True)])
        found = json.loads(said.read_text())
    if "unusable" in found:
        raise ConfigError(found["unusable"])
    found["problems"] = problems + [Problem(**each) for each in found["problems"]]
    return Report(**found)


def _examine(file: Path, settings: Settings, tests: bool) -> Report:
    report = Report()
    try:
        module = load_file(file)
    except BaseException as error:
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        report.problems.append(Problem(frames[-1] if frames else None, _line(error), fatal=True))
        return report
    declared = declared_in(module)
    report.types = [each.name for each in declared]
    if not declared and not any(isinstance(each, TypeFactory) for each in vars(module).values()):
        report.problems.append(Problem(None, "it declares no task type: no function has @task(...)"))
    report.problems += [
        Problem(each.function.__code__.co_firstlineno, f"task type '{each.name}': {text}", fatal=True)
        for each in declared
        for text in _faults(each, settings)
    ]
    report.problems += [Problem(None, text, fatal=True) for text in _neighbours(file, declared, settings)]
    if tests and not report.problems:
        _run_tests(module, report)
    return report


def _faults(declared: Declaration, settings: Settings) -> Iterator[str]:
    """Defects of one type alone."""
    try:
        Registry(settings).add(declared)
    except Exception as error:
        yield _line(error).removeprefix(f"ConfigError: task type '{declared.name}': ")
    functions = (
        ("its function", declared.function, "ctx, payload"),
        ("on_dead", declared.options.on_dead, "ctx, payload"),
        ("show", declared.options.show, "payload, result"),
        ("panel", declared.options.panel, "ctx, task"),
    )
    for what, function, valid in functions:
        try:
            if function is not None:
                inspect.signature(function).bind(None, None)
        except TypeError:
            yield f"{what} takes {inspect.signature(function)}; valid: ({valid})"  # type: ignore[arg-type]
    try:
        declared.options.payload.model_json_schema()
    except Exception as error:
        yield f"its payload has no JSON schema: {_line(error)}"


def _neighbours(file: Path, declared: list[Declaration], settings: Settings) -> Iterator[str]:
    """Conflicts with other plugins of this installation."""
    try:
        registry = Registry.load(settings)
    except ConfigError as error:
        yield str(error)
        return
    for each in declared:
        source = registry.get(each.name).source if each.name in registry else str(file)
        if not (os.path.exists(source) and os.path.samefile(source, file)):
            yield f"task type '{each.name}': the name is taken, by {source}"


def _run_tests(module: ModuleType, report: Report) -> None:
    for suite in vars(module).values():
        if not (isinstance(suite, type) and issubclass(suite, TypeSuite) and suite.__module__ == module.__name__):
            continue
        for name in [name for name in dir(suite) if name.startswith("test_")]:
            try:
                getattr(suite(), name)()
                report.passed += 1
            except unittest.SkipTest:
                report.skipped += 1
            except Exception as error:
                words = str(error) if isinstance(error, AssertionError) and str(error) else _line(error)
                report.problems.append(Problem(None, f"{suite.__name__}.{name}: {words}"))


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _main(file: str, said: str, tests: str) -> None:
    try:
        found = asdict(_examine(Path(file), load(), tests == "1"))
    except ConfigError as error:
        found = {"unusable": str(error)}
    Path(said).write_text(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
