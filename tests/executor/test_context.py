"""One context: that of plain functions has the methods of the async one, and nothing else."""

from __future__ import annotations

import ast
import inspect

import sytq.executor.context
from sytq import AsyncContext, Context
from tools import blocking_context


def test_blocking_context_is_what_its_tool_writes() -> None:
    written = ast.dump(ast.parse(blocking_context.text()))
    assert ast.dump(ast.parse(inspect.getsource(sytq.executor.context))) == written, blocking_context.__doc__


def test_both_contexts_have_the_same_names_parameters_and_docs() -> None:
    names = [name for name in dir(AsyncContext) if not name.startswith("_") and name != "blocking"]
    assert [name for name in dir(Context) if not name.startswith("_")] == names
    for name in names:
        plain, awaited = getattr(Context, name), getattr(AsyncContext, name)
        assert inspect.getdoc(plain) == inspect.getdoc(awaited)
        if callable(plain):
            assert list(inspect.signature(plain).parameters) == list(inspect.signature(awaited).parameters), name
