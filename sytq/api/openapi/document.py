"""Builds the OpenAPI 3.1 document from the declarations and payload models. Deterministic."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

import sytq
from sytq.api.compat.routes import TYPES
from sytq.api.openapi.declared import (
    IDEMPOTENCY_KEY,
    IDEMPOTENT_REPLAYED,
    NATIVE,
    OLD,
    ONCE_REFUSED,
    REFUSALS,
    TAGS,
    TASK_ID,
    Answer,
    JsonSchema,
    Operation,
)
from sytq.api.openapi.schemas import REF, Use, schemas_of, without_clashes
from sytq.api.v2 import requests
from sytq.tasktypes.registry import Registry
from sytq.tasktypes.tasktype import TaskType

_ABOUT = """\
A task service for slow and costly work. A 2xx response to a submission means that the task is committed to the database
and will reach exactly one end: succeeded, dead or cancelled. Every response carries `X-Request-Id`, your own or a new
one, and returns a valid `traceparent`; both appear in the logs and callbacks of the task. Errors under /v2 are problem
details (RFC 9457) with stable types."""
_REQUEST_ID = {"X-Request-Id": {"schema": {"type": "string"}}}


def document(registry: Registry) -> JsonSchema:
    """Return the document for the task types in `registry`."""
    submitted = sorted((known for known in registry if not known.internal), key=lambda known: known.name)
    declared = (*NATIVE, *_of_plugins(registry), *OLD)
    operations = [one for one in declared if one.path not in TYPES or TYPES[one.path] in registry]
    adapters: list[tuple[Use, JsonSchemaMode, TypeAdapter[Any]]] = [
        ((one.name, use), "validation" if use == "request" else "serialization", TypeAdapter(shape))
        for one in operations
        for use, shape in _shapes(one).items()
    ]
    adapters += [(("payload", known.name), "validation", TypeAdapter(known.payload)) for known in submitted]
    by_use, schemas = schemas_of(adapters)
    _one_of_each_type(schemas, submitted, {known.name: by_use["payload", known.name] for known in submitted})
    paths: JsonSchema = {}
    for one in operations:
        shown = {use: by_use[one.name, use] for use in _shapes(one)}
        paths.setdefault(one.path, {})[one.method] = _described(one, shown)
    built = {
        "openapi": "3.1.0",
        "info": {
            "title": "sytq",
            "version": sytq.__version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": name, "description": TAGS[name]} for name in TAGS if any(one.tag == name for one in operations)
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "bearerFormat": "sytq_<id>_<secret>"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{}, {"key": []}, {"basic": []}],
    }
    return without_clashes(built)


def _of_plugins(registry: Registry) -> Iterator[Operation]:
    for plugin in registry.plugins:
        for resource in plugin.routes().values() if plugin.routes is not None else ():
            yield from resource.operations


def _shapes(operation: Operation) -> dict[str, Any]:
    """The models of an operation by use: request, refusal, or a status. A dict is a schema already."""
    shapes = {"request": operation.request, "refusal": operation.refusal.shape}
    shapes |= {str(status): answer.shape for status, answer in operation.answers.items()}
    return {use: shape for use, shape in shapes.items() if shape is not None and not isinstance(shape, dict)}


def _one_of_each_type(schemas: JsonSchema, types: list[TaskType], payloads: JsonSchema) -> None:
    """Replace the schema of a new task by one schema for each type, with that type's payload."""
    general = schemas.pop(requests.NewTask.__name__)
    mapping: dict[str, str] = {}
    for known in types:
        one = copy.deepcopy(general)
        one["title"] = f"NewTask: {known.name}"
        one["properties"]["type"] = {"const": known.name}
        one["properties"]["payload"] = payload = payloads[known.name]
        model: Any = schemas.get(payload.get("$ref", "").rpartition("/")[2], payload)
        one["required"] = ["type", "payload"] if model.get("required") else ["type"]
        if known.function.__doc__:
            one["description"] = known.function.__doc__.strip().partition("\n")[0]
        if known.unique is not None:
            del one["properties"]["unique_key"]  # the type makes its own
        name = f"{requests.NewTask.__name__}.{known.name}"
        schemas[name] = one
        mapping[known.name] = REF.format(model=name)
    schemas[requests.NewTask.__name__] = {
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }
    item = {"$ref": REF.format(model=requests.NewTask.__name__)}
    schemas[requests.NewTasks.__name__]["properties"]["tasks"]["items"] = item


def _described(operation: Operation, shown: JsonSchema) -> JsonSchema:
    parameters = [TASK_ID] if "{task_id}" in operation.path else []
    parameters += [IDEMPOTENCY_KEY] if operation.once else []
    described: JsonSchema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*parameters, *operation.parameters],
    }
    if operation.request is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": shown.get("request", operation.request)}},
        }
    answers = {str(status): _answer(answer, shown.get(str(status))) for status, answer in operation.answers.items()}
    if operation.once:
        for answer in answers.values():
            answer["headers"] |= IDEMPOTENT_REPLAYED
    refusals = {status: REFUSALS[status] for status in operation.refusals} | (ONCE_REFUSED if operation.once else {})
    named = {str(status): meaning for status, meaning in refusals.items()} | {"default": operation.refusal.meaning}
    for status, meaning in named.items():
        answers[status] = _answer(replace(operation.refusal, meaning=meaning), shown.get("refusal"))
    return described | {"responses": answers}


def _answer(answer: Answer, schema: JsonSchema | None) -> JsonSchema:
    shown: JsonSchema = {"description": answer.meaning, "headers": _REQUEST_ID | (answer.headers or {})}
    if answer.shape is not None:
        shown["content"] = {answer.media_type: {"schema": schema or answer.shape}}
    return shown
