"""One context: that of plain functions has the methods of the async one, and nothing else."""

from __future__ import annotations

import inspect

from sytq import AsyncContext, Context


def test_both_contexts_have_the_same_names_parameters_and_docs() -> None:
    names = [name for name in dir(AsyncContext) if not name.startswith("_") and name != "blocking"]
    assert [name for name in dir(Context) if not name.startswith("_")] == names
    for name in names:
        plain, awaited = getattr(Context, name), getattr(AsyncContext, name)
        assert inspect.getdoc(plain) == inspect.getdoc(awaited)
        if callable(plain):
            assert list(inspect.signature(plain).parameters) == list(inspect.signature(awaited).parameters), name
