"""JSON Schemas of request, response and payload models, in the form from which strict clients can be generated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import core_schema

JsonSchema = dict[str, Any]
Use = tuple[str, str]
REF = "#/components/schemas/{model}"


class _Generator(GenerateJsonSchema):
    """A field with a default may be left out of a request, and is always in a response."""

    def field_is_required(
        self, field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField, total: bool
    ) -> bool:
        always = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return (always and "serialization_exclude_if" not in field) or super().field_is_required(field, total)


def schemas_of(
    adapters: Iterable[tuple[Use, JsonSchemaMode, TypeAdapter[Any]]],
) -> tuple[dict[Use, JsonSchema], JsonSchema]:
    """Return the schema of each use, and the models' schemas by name, to which those refer."""
    found, definitions = TypeAdapter.json_schemas(adapters, ref_template=REF, schema_generator=_Generator)
    schemas: JsonSchema = definitions.get("$defs", {})
    for name, schema in schemas.items():
        schema["title"] = name  # two plugins may have a model `Payload` each, and generators go by titles
        for field in schema.get("properties", {}).values():
            _tell_default(field)
    return {use: schema for (use, _mode), schema in found.items()}, schemas


def _tell_default(field: JsonSchema) -> None:
    """Replace the keyword `default` by a sentence: generators make a field that has the keyword required."""
    default = field.pop("default", None)
    if default in (None, "", [], {}):
        return
    sentences = [field["description"]] if "description" in field else []
    field["description"] = ". ".join([*sentences, f"Default: {json.dumps(default, ensure_ascii=False)}"])


def without_clashes(document: JsonSchema) -> JsonSchema:
    """Return the document with new names for schemas that are called as one of their own properties.

    A generated Python class has both names in one scope: a model `Photo` with a field `photo` is `PhotoObject`.
    """
    schemas: JsonSchema = document["components"]["schemas"]
    clashing = [name for name, schema in schemas.items() if _plain(name) in map(_plain, schema.get("properties", {}))]
    for name in clashing:
        renamed = f"{name}Object"
        schemas[renamed] = schemas.pop(name) | {"title": renamed}
        old, new = (json.dumps(REF.format(model=model)) for model in (name, renamed))
        document = json.loads(json.dumps(document).replace(old, new))
        schemas = document["components"]["schemas"]
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
