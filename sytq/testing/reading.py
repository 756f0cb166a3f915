"""What the text of a plugin's file shows without being run.

Owns these rules: few, and each of them sure. What is wrong only sometimes is not for here.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from sytq.executor.context import AsyncContext

_VERBS = ("get", "post", "put", "patch", "delete", "request")
_PROGRAMS = ("run", "call", "check_call", "check_output")
#: Calls that hold up the event loop, with what to use in an `async def`.
_BLOCKING = {
    "time.sleep": "await asyncio.sleep(...)",
    "urllib.request.urlopen": "await ctx.http.get(...)",
    **dict.fromkeys((f"requests.{verb}" for verb in _VERBS), "await ctx.http.request(...)"),
    **dict.fromkeys((f"subprocess.{name}" for name in _PROGRAMS), "asyncio.create_subprocess_exec(...)"),
}
#: What an AsyncContext offers that does nothing until it is awaited.
_AWAITED = {name for name, each in vars(AsyncContext).items() if inspect.iscoroutinefunction(each)}


@dataclass(frozen=True)
class Problem:
    """Something wrong, at a line where there is one; with what is `fatal` the file cannot be used."""

    line: int | None
    text: str
    fatal: bool = False


def read(content: bytes) -> list[Problem]:
    """The problems of a file's text, in its order."""
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        return [Problem(error.lineno, f"syntax error: {error.msg}", fatal=True)]
    except ValueError as error:  # a NUL
        return [Problem(None, str(error), fatal=True)]
    names = _imported(tree)
    found = [
        problem
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef)
        for problem in _in_coroutine(node, names)
    ]
    return sorted(found, key=lambda problem: problem.line or 0)


def _in_coroutine(function: ast.AsyncFunctionDef, names: dict[str, str]) -> Iterator[Problem]:
    context = function.args.args[0].arg if function.args.args else ""
    for node in _own(function):
        if isinstance(node, ast.Call):
            called = _dotted(node.func, names)
            if called in _BLOCKING:
                instead = _BLOCKING[called]
                text = f"{called} blocks every task of the event loop in `async def {function.name}`; use {instead}"
                yield Problem(node.lineno, text)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            owner, _, method = _dotted(node.value.func, {}).partition(".")
            if owner == context and method in _AWAITED:
                yield Problem(node.lineno, f"{owner}.{method}(...) does nothing unless it is awaited")


def _own(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a coroutine function without those of functions within it: these may run on a thread."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting += ast.iter_child_nodes(node)


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the names that the file imports stand for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`a.b.c` as text, "" for what is no such name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])
