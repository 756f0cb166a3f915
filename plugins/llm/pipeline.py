"""The nodes of a valuation: prompts, rendered with bounds, and validation of answers by JSON schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sytq import Fail

from .answer import ChatError, Reply
from .chat import Message
from .config import LlmSettings
from .node import Node

MAX_PROMPT = 4 << 20  # bytes of one rendered message
# Known to be valid: validating it would import jinja2 in every process.
_SINGLE = Node.model_construct(name="report", prompt="{{ row.user_message }}", system="{{ row.sys_message }}")


def nodes(settings: LlmSettings, table: str) -> Sequence[Node]:
    """The nodes for a table's rows: its pipeline, or the single question in the row itself."""
    name = settings.llm.tables[table].pipeline
    return settings.llm.pipelines[name] if name else [_SINGLE]


def messages(node: Node, row: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[Message]:
    """A node's messages, from the row's columns and the outputs of earlier nodes. Raises Fail."""
    if node is _SINGLE and not str(row["user_message"] or "").strip():
        raise Fail("the row has no user_message: nothing to ask")
    prompt = _render(node, node.prompt, row, outputs)
    if not prompt.strip():
        raise Fail(f"node '{node.name}': the prompt is blank")
    system = _render(node, node.system or "", row, outputs)
    asked: list[Message] = [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": system}, *asked] if system.strip() else asked


def output(node: Node, reply: Reply) -> Any:
    """The answer for later nodes: its text, or its JSON value if the node has a schema."""
    return reply["content"] if node.json_schema is None else _value(reply["content"])


def check(node: Node, reply: Reply) -> None:
    """Raises ChatError (schema) saying where an answer violates the node's schema."""
    if node.json_schema is None:
        return
    try:
        value = _value(reply["content"])
    except (ValueError, RecursionError):
        raise ChatError("schema", "the answer is not JSON") from None
    import jsonschema
    import referencing

    # An own registry prevents fetching a remote `$ref`.
    validator = jsonschema.Draft202012Validator(node.json_schema, registry=referencing.Registry())
    try:
        problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except referencing.exceptions.Unresolvable as error:
        raise Fail(f"node '{node.name}': json_schema refers to '{error.ref[:100]}', which is not in it") from None
    if problem is not None:
        # The library's message quotes the answer.
        raise ChatError("schema", f"{problem.json_path[:200]} is not as the schema's '{problem.validator}' wants it")


def correction(error: ChatError) -> str:
    """The message to a provider whose answer violated the schema."""
    return f"That is not what was asked for: {error}. Answer again, with nothing but JSON that fits the schema."


def _value(text: str) -> Any:
    """The JSON of an answer, with or without a code fence."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _render(node: Node, template: str, row: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    import jinja2

    from .templates import compiled

    parts: list[str] = []
    size = 0
    try:
        for part in compiled(template).generate(row=row, outputs=outputs):
            size += len(part.encode("utf-8", "replace"))
            if size > MAX_PROMPT:
                raise Fail(f"node '{node.name}': the prompt is longer than {MAX_PROMPT} bytes")
            parts.append(part)
    except jinja2.UndefinedError as error:  # names only, no values
        raise Fail(f"node '{node.name}': the template cannot be filled: {error.message}") from None
    except Fail:
        raise
    except Exception as error:
        raise Fail(f"node '{node.name}': the template cannot be filled ({type(error).__name__})") from None
    return "".join(parts)
