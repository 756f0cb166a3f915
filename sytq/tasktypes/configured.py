"""Task types that the configuration alone declares, `types.<name>: {<key>: ...}`, built by a plugin's `TypeFactory`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from sytq.config.values import problem
from sytq.deprecated import renamed_names

_WORDS: dict[str, Any] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "list": list[Any],
    "object": dict[str, Any],
    "any": Any,
}
_VALID = ", ".join(_WORDS)
_FIELD = "a letter, then up to 63 letters, digits or _; it does not begin with model_"


def _field(name: str) -> str:
    if name.startswith("model_") or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name, re.ASCII):
        raise problem("not the name of a field", _FIELD)
    return name


#: The fields of a payload: field -> one of the words above, after "optional" where the field may be absent.
PayloadFields = dict[
    Annotated[str, AfterValidator(_field), _FIELD],
    Annotated[str, Field(pattern=rf"^(optional )?({'|'.join(_WORDS)})$"), f"{_VALID}; or optional and one of these"],
]


@dataclass(frozen=True, slots=True)
class TypeFactory:
    """A module-level factory makes a task type of every `types.<name>` that has `key` and is no type otherwise.

    `config` is the model of all keys below `types.<name>` except policy; `make(name, config)` returns the type.
    """

    key: str
    config: type[BaseModel]
    make: Callable[[str, Any], Any]


__getattr__ = renamed_names(__name__, Kind=TypeFactory)


class Anything(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow")


def payload_model(name: str, fields: PayloadFields | None) -> type[BaseModel]:
    """Return the model of a payload with exactly these fields; None takes any object."""
    if fields is None:
        return Anything
    typed: dict[str, Any] = {}
    for field, word in fields.items():
        kind = _WORDS[word.removeprefix("optional ")]
        typed[field] = (kind | None, None) if word.startswith("optional ") else (kind, ...)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a field may have the name of an unused method: copy, json
        return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **typed)


def check_places(used: Iterable[str], fields: PayloadFields | None, key: str) -> None:
    """Raise for a place below `key` that is no field of the payload, if its fields are known."""
    for name in used:
        if fields is not None and name not in fields:
            raise problem(
                f"{{{name}}} is not a field of payload", ", ".join(fields) or "none", key=key, value=f"{{{name}}}"
            )
