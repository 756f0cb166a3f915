"""Checks of payloads, and JSON of payloads and results."""

from __future__ import annotations

import json
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from sytq.errors import InvalidFields

_MAX_ERRORS = 20
M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: object, whole: str) -> M:
    """Return the value as an instance of the model. Raises InvalidFields, in which `whole` names the value itself."""
    try:
        return cast(M, model.__pydantic_validator__.validate_python(value))  # `model_validate`, without its options
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_ERRORS]
        raise InvalidFields(
            [(".".join(map(str, each["loc"])) or whole, each["msg"].removeprefix("Value error, ")) for each in found]
        ) from None


def written(payload: BaseModel) -> str:
    """Return a payload as the ledger stores it: JSON text of the given fields, without the defaults."""
    try:
        return payload.__pydantic_serializer__.to_json(payload, exclude_unset=True).decode()
    except PydanticSerializationError:  # half a surrogate pair
        return encode(payload.model_dump(mode="json", exclude_unset=True))


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(value: object) -> str:
    """Return a payload or result as JSON text in UTF-8. Raises ValueError for values that JSON does not have (NaN)."""
    text = _ENCODER.encode(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can express it
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text
