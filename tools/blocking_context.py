"""Writes sytq/executor/context.py: the methods of AsyncContext for plain functions, each without its `await`.

python tools/blocking_context.py > sytq/executor/context.py; .venv/bin/ruff format sytq/executor/context.py
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "sytq" / "executor" / "async_context.py"

HEAD = '''"""The `ctx` of plain functions: `AsyncContext` through a portal. Written by tools/blocking_context.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import peewee
from typing_extensions import Unpack

from sytq.broker.limiter import Limiter, Permit
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Attempt
from sytq.executor.portal import Portal
from sytq.executor.transaction import Child, Transaction
from sytq.service.tree import Outcome

if TYPE_CHECKING:
    from sytq.http import BlockingClient

T = TypeVar("T")


class Context(Attempt):
    """The context of a plain function."""

    def __init__(self, awaited: AsyncContext, portal: Portal) -> None:
        vars(self).update(vars(awaited))  # what an attempt has does not change
        self._awaited, self._through = awaited, portal

    def remaining(self) -> float:
        """{remaining}"""
        return self._awaited.remaining()

    @property
    def http(self) -> BlockingClient:
        """{http}"""
        from sytq.http import BlockingClient

        return BlockingClient(self._services.client, self._through.wait, self.remaining)
'''
NAMES = {"asynccontextmanager": "contextmanager", "AsyncIterator": "Iterator"}
#: For async functions alone: a plain one may block.
ASYNC_ONLY = {"blocking"}


def text() -> str:
    """Return the module, not yet formatted."""
    tree = ast.parse(SOURCE.read_text())
    (source,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AsyncContext")
    docs = {node.name: ast.get_docstring(node, clean=False) for node in source.body if hasattr(node, "name")}
    methods = [
        _blocking(node)
        for node in source.body
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_") and node.name not in ASYNC_ONLY
    ]
    head = HEAD.replace("{remaining}", docs["remaining"] or "").replace("{http}", docs["http"] or "")
    return head + "".join(f"\n{_indented(method)}\n" for method in methods)


def _blocking(method: ast.AsyncFunctionDef) -> ast.FunctionDef:
    arguments = method.args
    call = [ast.unparse(_given(argument)) for argument in arguments.args[1:]]
    call += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    call += [f"{argument.arg}={ast.unparse(_given(argument))}" for argument in arguments.kwonlyargs]
    call += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    called = f"self._awaited.{method.name}({', '.join(call)})"
    if method.decorator_list:
        body = f"with self._through.entered({called}) as entered:\n    yield entered"
    elif ast.unparse(method.returns or ast.Constant(None)) == "None":
        body = f"self._through.wait({called})"
    else:
        body = f"return self._through.wait({called})"
    docstring = ast.Expr(ast.Constant(ast.get_docstring(method, clean=False)))
    plain = ast.FunctionDef(
        name=method.name,
        args=arguments,
        body=[docstring, *ast.parse(body).body],
        decorator_list=method.decorator_list,
        returns=method.returns,
        type_params=[],
    )
    return ast.fix_missing_locations(_Plain().visit(plain))


def _given(argument: ast.arg) -> ast.expr:
    """What is passed on: an argument that is a coroutine function is a plain one, which the thread calls."""
    awaited = argument.annotation is not None and "Awaitable" in ast.unparse(argument.annotation)
    return ast.parse(f"self._through.awaitable({argument.arg})" if awaited else argument.arg, mode="eval").body


class _Plain(ast.NodeTransformer):
    """Names and types of async code become those of plain code."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = NAMES.get(node.attr, node.attr)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(NAMES.get(node.id, node.id), node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        return node.slice if isinstance(node.value, ast.Name) and node.value.id == "Awaitable" else node


def _indented(node: ast.AST) -> str:
    return ast.unparse(ast.Module([ast.ClassDef("_", [], [], [node], [], type_params=[])], [])).partition("\n")[2]


if __name__ == "__main__":
    print(text())
