"""The nodes of a pipeline as configured: their questions, whom they ask and what a valid answer is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sytq.config import Section
from sytq.config.values import Count, Name, Text, problem

_TEMPLATE = "a Jinja template over row and outputs"


def _template(text: str) -> str:
    from jinja2 import TemplateSyntaxError

    from .templates import undeclared

    try:
        names = undeclared(text)
    except TemplateSyntaxError as error:
        raise problem(f"line {error.lineno} is no Jinja template: {error.message}", _TEMPLATE) from None
    for name in sorted(names - {"row", "outputs"}):
        raise problem(f"there is no '{name}' in a prompt", _TEMPLATE)
    return text


Template = Annotated[str, Field(max_length=64 << 10), AfterValidator(_template), _TEMPLATE]


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise problem(f"not a JSON schema: {error.message[:200]}", "a JSON schema of draft 2020-12") from None
    return schema


class Node(Section):
    """One question of a pipeline."""

    name: Name
    prompt: Template
    system: Template | None = None
    provider: Name | None = None
    model: Text | None = None
    fallback: list[Text] | None = None  # None: as llm.fallback
    max_tokens: Count | None = None
    extra: dict[str, Any] = {}
    json_schema: Annotated[dict[str, Any], AfterValidator(_schema)] | None = None
    schema_retries: int = Field(default=2, ge=0, le=10)


def _each_name_once(nodes: list[Node]) -> list[Node]:
    names = [node.name for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise problem(f"two nodes are named '{name}'", "each name once")
    return nodes


Pipeline = Annotated[
    list[Node], Field(min_length=1, max_length=50), AfterValidator(_each_name_once), "a list of 1 to 50 nodes"
]
