"""Reads the layers of settings: the YAML file, other systems' variables, SYTQ_ variables, secret files.

Problems go into a list, so that one message can name all. Must not judge values; the model (of all sections) does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

from pydantic import BaseModel

from sytq.config import compat
from sytq.config.cleaning import cleaned, trimmed
from sytq.config.masking import is_secret_key
from sytq.config.problems import Path, Place, place_at

#: The usual names of these settings.
USUAL_VARIABLES: Mapping[str, str] = {
    "SENTRY_DSN": "sentry.dsn",
    "SENTRY_ENVIRONMENT": "sentry.environment",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "otel.endpoint",
}

#: One setting of one layer: its path, its value, its origin.
Given = tuple[Path, Any, str]
Model = type[BaseModel]


def read(
    model: Model, path: str | None, environ: Mapping[str, str], problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (settings as a tree, dotted key -> origin); adds what cannot be read to `problems`."""
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (
        list(_file(model, path or trimmed(environ.get("SYTQ_CONFIG", "")), problems)),
        list(_other_variables(environ)),
        list(_variables(model, environ, problems)),
        [*_named_files(model, environ, problems), *_credentials(model, environ, problems)],
    ):
        said = {".".join(path) for path, _, _ in layer}
        for key in said & compat.REPLACES.keys():
            for other in compat.REPLACES[key]:
                if other not in said and origins.pop(other, ""):
                    section, name = other.split(".")
                    del tree[section][name]
        for path_, value, origin in layer:
            _put(tree, origins, path_, value, origin)
    return cleaned(tree, Place(model), problems, origins), origins


def _put(tree: dict[str, Any], origins: dict[str, str], path: Path, value: Any, origin: str) -> None:
    node, real = tree, []
    for key in path[:-1]:
        key = _same_key(node, key)
        real.append(key)
        below = node.setdefault(key, {})
        if not isinstance(below, dict):  # text instead of a section: the model reports it
            return
        node = below
    last = _same_key(node, path[-1])
    node[last] = value
    dotted = ".".join((*real, last))
    for key in [key for key in origins if key.startswith(dotted + ".")]:
        del origins[key]
    origins[dotted] = origin


def _same_key(node: Mapping[str, Any], key: str) -> str:
    """Find the existing spelling of a key: variables have neither case nor hyphens."""
    if key in node:
        return key
    folded = key.lower().replace("-", "_")
    return next((known for known in node if known.lower().replace("-", "_") == folded), key)


def _file(model: Model, path: str | None, problems: list[str]) -> Iterator[Given]:
    if not path:
        return
    import yaml

    from sytq.config.yaml_loader import Loader

    try:
        text = File(path).read_text(encoding="utf-8")
        if text.lstrip().startswith("{"):  # JSON is YAML, except for tabs between its parts
            text = text.replace("\t", " ")
        tree = yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        problems.append(f"configuration file: '{path}' cannot be read: {error.strerror}; valid: a YAML file")
    except UnicodeDecodeError:
        problems.append(f"configuration file: '{path}' is not UTF-8 text; valid: a YAML file")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Never str(error): it quotes the line, which may hold a password.
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        # Likewise what its words quote: in `password: *abc` the alias is a password.
        why = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "'...'", getattr(error, "problem", None) or "it cannot be parsed")
        problems.append(f"configuration file: '{path}'{where} is not YAML: {why}; valid: a YAML file")
    else:
        if isinstance(tree, dict):
            yield from _leaves(model, tree, (), f"file {path}")
        elif tree is not None:
            problems.append(
                f"configuration file: '{path}' holds no sections; valid: `section:` with `key: value` below"
            )


def _leaves(model: Model, value: Any, path: Path, origin: str) -> Iterator[Given]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(model, inner, (*path, _spelt(model, path, str(key))), origin)
        return
    if value is None:
        place, above = place_at(path, model), place_at(path[:-1], model)
        if place and place.model and above and above.model is None:
            value = {}  # `tables: {orders: }`, an entry without settings
        elif place and above and above.model:
            return  # a setting or section with nothing after the colon is not given
    if path:
        yield path, value, origin


def _spelt(model: Model, path: Path, key: str) -> str:
    """A setting as it is spelt here: the old services read the keys of a file in any case."""
    above = place_at(path, model)
    known = above is None or above.model is None or above.below(key) is not None
    return key if known or place_at((*path, key.lower()), model) is None else key.lower()


def _other_variables(environ: Mapping[str, str]) -> Iterator[Given]:
    for name, key in {**compat.VARIABLES, **USUAL_VARIABLES}.items():
        value = compat.meaning(name, trimmed(environ.get(name, "")))
        if value and not _is_link(value):
            yield tuple(key.split(".")), value, f"env {name}"


def _is_link(value: str) -> bool:
    # Kubernetes sets API_PORT=tcp://10.0.0.1:80 in every pod beside a service named "api".
    return re.match(r"(tcp|udp|sctp)://", value) is not None


def _variables(model: Model, environ: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    for name, text in sorted(environ.items()):
        value = trimmed(text)  # a file of variables with Windows' line ends leaves one behind each
        if not name.startswith("SYTQ_") or not value or name == "SYTQ_CONFIG" or _file_of(model, name):
            continue
        path = _path_of(name)
        if len(path) > 1 or place_at(path, model):
            yield from _entries(model, path, value, f"env {name}")
        elif not _is_link(value) and (meant := _with_one_underscore(model, name)):
            problems.append(f"{name}: no such variable; did you mean {meant}?")


def _named_files(model: Model, environ: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    for name, file in sorted(environ.items()):
        if (file := trimmed(file)) and (path := _file_of(model, name)):
            yield from _secret(model, path, name, File(file), problems)


def _credentials(model: Model, environ: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    try:
        files = sorted(File(folder).iterdir()) if folder else []
    except OSError:
        return  # inherited from another service's unit, whose credentials are not ours
    for file in files:
        path = _path_of(file.name.upper())
        if file.name.upper().startswith("SYTQ_") and len(path) > 1:
            yield from _secret(model, path, file.name, file, problems)


def _secret(model: Model, path: Path, name: str, file: File, problems: list[str]) -> Iterator[Given]:
    try:
        value = trimmed(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        problems.append(f"{name}: file '{file}' cannot be read: {why}; valid: a file with the secret")
        return
    if not value:
        problems.append(f"{name}: file '{file}' is empty; valid: a file with the secret")
        return
    yield from _entries(model, path, value, f"secret file {file}")


def _path_of(name: str) -> Path:
    return tuple(name.removeprefix("SYTQ_").lower().split("__"))


def _file_of(model: Model, name: str) -> Path | None:
    """The setting whose value is in the file that the variable SYTQ_..._FILE names."""
    if not name.startswith("SYTQ_") or not name.endswith("_FILE") or "__" not in name:
        return None
    above = place_at(_path_of(name)[:-1], model)
    if above and above.model and _path_of(name)[-1] in above.model.model_fields:
        return None
    return _path_of(name.removesuffix("_FILE"))


def _with_one_underscore(model: Model, name: str) -> str | None:
    words = name.removeprefix("SYTQ_").removesuffix("_FILE").lower()
    section, _, key = words.partition("_")
    above = place_at((section,), model)
    if above and above.model and key in above.model.model_fields:
        return f"SYTQ_{section.upper()}__{key.upper()}{'_FILE' if name.endswith('_FILE') else ''}"
    return None


def _entries(model: Model, path: Path, text: str, origin: str) -> Iterator[Given]:
    """Yield the settings of a variable's text: JSON for mappings and lists, else the text."""
    place = place_at(path, model)
    value: Any = text
    guessed = place is not None and place.type is Any and not is_secret_key(path[-1])  # a password is text: `1e5`
    if place and (guessed or (place.is_container and text.lstrip()[:1] in ("{", "["))):
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    if place and place.is_container and isinstance(value, dict):
        yield from _leaves(model, value, path, origin)
    else:
        yield path, value, origin
