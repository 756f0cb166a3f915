"""Finds in a plugin's text, without running it: syntax errors, blocking calls, forgotten awaits."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from sytq.executor.async_context import AsyncContext

#: Calls in an `async def` that block the event loop: HTTP, subprocesses, time.sleep and input.
_BLOCKING = "ASYNC210,ASYNC212,ASYNC22,ASYNC25"
_TIMEOUT = 30.0
#: Names of an AsyncContext that do nothing until awaited.
_AWAITED = {name for name, each in vars(AsyncContext).items() if inspect.iscoroutinefunction(each)}


@dataclass(frozen=True)
class Problem:
    """A defect, with its line if known; a `fatal` defect makes the file unusable."""

    line: int | None
    text: str
    fatal: bool = False


def read(content: bytes) -> list[Problem]:
    """The problems of a file's text, in order. Blocking calls are found if ruff is installed."""
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        return [Problem(error.lineno, f"syntax error: {error.msg}", fatal=True)]
    except ValueError as error:  # a NUL
        return [Problem(None, str(error), fatal=True)]
    coroutines = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    found = [problem for function in coroutines for problem in _not_awaited(function)]
    return sorted([*found, *_blocking(content)], key=lambda problem: problem.line or 0)


def _blocking(content: bytes) -> Iterator[Problem]:
    ruff = shutil.which("ruff", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if ruff is None:
        return
    command = [ruff, "check", "--isolated", "--select", _BLOCKING, "--output-format", "json", "-"]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_TIMEOUT)
        problems = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return
    for one in problems:
        yield Problem(one["location"]["row"], f"{one['message']} ({one['code']})")


def _not_awaited(function: ast.AsyncFunctionDef) -> Iterator[Problem]:
    context = function.args.args[0].arg if function.args.args else ""
    for node in _own(function):
        match node:
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(owner), method))) if owner == context and method in _AWAITED:
                yield Problem(node.lineno, f"{owner}.{method}(...) does nothing unless it is awaited")


def _own(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a coroutine function without nested functions, which may run on a thread."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting += ast.iter_child_nodes(node)
