"""The operator's prompt templates, in a sandbox."""

from __future__ import annotations

import functools
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Templates(ImmutableSandboxedEnvironment):
    """The operator's templates see only values, and a mistake in a template cannot exhaust the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not isinstance(left, int | float) or not isinstance(right, int | float):
            raise jinja2.TemplateRuntimeError("only numbers can be multiplied")
        return left * right


_TEMPLATES = _Templates(
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: "" if value is None else value,  # NULL renders as nothing, not as None
    keep_trailing_newline=True,
)


def undeclared(template: str) -> set[str]:
    """The names that a template reads without defining them. It is compiled, in the sandbox, and not rendered."""
    return jinja2.meta.find_undeclared_variables(_TEMPLATES.parse(template))


@functools.lru_cache(256)
def compiled(template: str) -> jinja2.Template:
    """Return a template ready to render."""
    return _TEMPLATES.from_string(template)
