"""The wording of configuration errors, and what may stand at a dotted key.

Must never put a secret into a message, nor the value of an unknown key (a mistyped `pasword` is a password).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from sytq.config.masking import MASK, is_secret_key, mask_url

Path = tuple[str, ...]

_REASONS = {
    "less_than": "too large",
    "greater_than": "too small",
    "int_": "not a whole number",
    "float_": "not a number",
    "bool_": "neither true nor false",
    "literal_error": "not one of these",
    "string_type": "not text",
    "string_pattern": "not of this form",
    "string_too": "too short or too long",
    "dict_type": "not a mapping",
    "model_": "not a mapping",
    "list_type": "not a list",
}
_BOUNDS = {Ge: "at least", Gt: "more than", Le: "at most", Lt: "less than"}


class Place:
    """A dotted key in the model: its type without Optional, and the annotations beside the type."""

    def __init__(self, annotation: Any, notes: tuple[Any, ...] = ()) -> None:
        while True:
            arguments = get_args(annotation)
            if get_origin(annotation) is Annotated:
                annotation, notes = arguments[0], (*notes, *arguments[1:])
            elif get_origin(annotation) in (Union, UnionType) and NoneType in arguments and len(arguments) == 2:
                annotation = next(argument for argument in arguments if argument is not NoneType)
            else:
                break
        self.type: Any = annotation
        self.notes = tuple(_flat(notes))

    @property
    def model(self) -> type[BaseModel] | None:
        return self.type if isinstance(self.type, type) and issubclass(self.type, BaseModel) else None

    @property
    def is_container(self) -> bool:
        """Whether a single text can give the value only as JSON."""
        return self.model is not None or get_origin(self.type) in (dict, list)

    def below(self, key: str) -> Place | None:
        """The place under this key or list index; None when the model has none."""
        if self.type is Any:
            return self
        if get_origin(self.type) in (dict, list):
            return Place(get_args(self.type)[-1])
        if self.model is None:
            return None
        field = self.model.model_fields.get(key)
        if field is not None:
            return Place(field.annotation, tuple(field.metadata))
        return Place(Any) if self.model.model_config.get("extra") == "allow" else None

    @property
    def valid(self) -> str:
        for note in reversed(self.notes):  # the outermost is the most exact
            if isinstance(note, str):
                return note
        if get_origin(self.type) is Literal:
            return ", ".join(get_args(self.type))
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", SecretStr: "text"}
        if self.type in words:
            return words[self.type] + "".join(_bound(note) for note in self.notes)
        if get_origin(self.type) is list:
            return 'a list, in the environment as JSON such as ["a", "b"]'
        return "a mapping of keys to values, in the environment as JSON"


def _flat(notes: tuple[Any, ...]) -> Iterator[Any]:
    for note in notes:
        yield from _flat(tuple(note.metadata)) if isinstance(note, FieldInfo) else (note,)


def _bound(note: object) -> str:
    return f", {_BOUNDS[type(note)]} {astuple(note)[0]}" if type(note) in _BOUNDS else ""  # type: ignore[call-overload]


def place_at(path: Path, model: type[BaseModel]) -> Place | None:
    """Return the place of a key; None when the setting does not exist."""
    place: Place | None = Place(model)
    for key in path:
        if place is None:
            return None
        place = place.below(key)
    return place


def unknown(path: Path, model: type[BaseModel], section: Path = ()) -> str:
    """Say that a setting does not exist, and name the nearest that does."""
    for depth, key in enumerate(path):
        above = place_at(path[:depth], model)
        if above is not None and above.below(key) is None:
            known = list(above.model.model_fields) if above.model else []
            rest = path[depth + 1 :]
            near = difflib.get_close_matches(key, known, 3, cutoff=0.6)
            # The right section is where the rest of the key exists.
            near.sort(key=lambda name, rest=rest: place_at((*path[:depth], name, *rest), model) is None)  # type: ignore[misc]
            prefix = ".".join((*section, *path[:depth]))
            if near:
                meant = ".".join((*section, *path[:depth], near[0], *rest))
                return f"no such setting; did you mean {meant}?"
            return f"no such setting; valid{f' in {prefix}' if prefix else ''}: {', '.join(known)}"
    return "no such setting"


def lines(error: ValidationError, origins: Mapping[str, str], model: type[BaseModel], section: Path = ()) -> list[str]:
    """Turn pydantic's errors into lines `key: value 'x' is not valid: why; valid: what (where from)`.

    `section` is the place of `model` in the settings, for keys that a task type declares.
    """
    return [_line(found, origins, model, section) for found in error.errors(include_url=False)]


def _line(found: Any, origins: Mapping[str, str], model: type[BaseModel], section: Path) -> str:
    path = tuple(str(part) for part in found["loc"])
    context = found.get("ctx", {})
    value = found["input"]
    mapping_key = path[-1:] == ("[key]",)  # the key is wrong, not the value under it
    if mapping_key:
        path, value = path[:-2], path[-2]
    if context.get("key"):
        path = (*path, *context["key"].split("."))
    if context.get("value") is not None:
        value = context["value"]
    exact = mapping_key or context.get("value") is not None
    key = ".".join((*section, *path))
    place = place_at(path, model)
    if mapping_key and place is not None:
        place = Place(get_args(place.type)[0])
    where = source((*section, *path), origins)
    if found["type"] == "extra_forbidden":
        below = [name for name in origins if name.startswith(f"{key}.")]
        deepest = tuple(below[0].split("."))[len(section) :] if below else path
        return f"{key}: {unknown(deepest, model, section)}{where}"
    valid = context.get("valid") or (place.valid if place else "")
    if found["type"] == "missing":
        return f"{key}: missing; valid: {valid}{source((*section, *path[:-1]), origins)}"
    reason = context.get("reason") or next(
        (words for kind, words in _REASONS.items() if found["type"].startswith(kind)), found["msg"]
    )
    return f"{key}: value {_shown(path, place, value, exact)} is not valid: {reason}; valid: {valid}{where}"


def _shown(path: Path, place: Place | None, value: object, exact: bool) -> str:
    if isinstance(value, SecretStr) or is_secret(path, place):
        return f"'{MASK}'"
    if isinstance(value, (dict, list, BaseModel)):
        return "with several parts"
    # Text instead of a mapping may be a whole section with its passwords.
    if not exact and place is not None and place.is_container and place.valid.startswith("a mapping"):
        return "in one piece"
    text = mask_url(str(value))
    return f"'{text if len(text) <= 200 else text[:200] + '...'}'"


def is_secret(path: Path, place: Place | None) -> bool:
    return (place is not None and place.type is SecretStr) or any(is_secret_key(key) for key in path)


def nearest(path: Sequence[str], origins: Mapping[str, str]) -> str | None:
    """The origin of a setting, or of what it is a part of."""
    keys = (".".join(path[:length]) for length in range(len(path), 0, -1))
    return next((origins[key] for key in keys if key in origins), None)


def source(path: Path, origins: Mapping[str, str]) -> str:
    """Where a setting comes from, in parentheses; empty if nowhere."""
    if origin := nearest(path, origins):
        return f" ({origin})"
    inside = {origin for key, origin in origins.items() if key.startswith(".".join(path) + ".")}
    return f" ({', '.join(sorted(inside))})" if inside else ""
