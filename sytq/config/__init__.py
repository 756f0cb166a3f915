"""The configuration: `load()`, called once in a process, alone reads the environment and the configuration files."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sytq.config import layers, problems
from sytq.config.sections import Section, TaskType
from sytq.config.settings import Settings
from sytq.errors import ConfigError
from sytq.plugins import Installed, Plugin, find

__all__ = ["Section", "Settings", "TaskType", "load"]


def load(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    plugins: bool = True,
    modules: Iterable[types.ModuleType] = (),
) -> Settings:
    """Read defaults < YAML file < old variables < SYTQ_ variables < secret files.

    `path` names the YAML file and defaults to SYTQ_CONFIG; without either no file is read. `environ` defaults to the
    current environment. The installed plugins are loaded for their sections, and `modules` in addition; without
    `plugins` only the core's sections are read. Raises ConfigError with one line for every problem.
    """
    environ = os.environ if environ is None else environ
    installed = find(_folders(path, environ), modules) if plugins else Installed()
    model = _model(tuple(each for each in installed.plugins if each.settings is not None))
    found: list[str] = []
    tree, origins = layers.read(model, path, environ, found)
    if not plugins or installed.quarantined:  # a section may belong to a plugin that is not loaded
        tree = {name: section for name, section in tree.items() if name in model.model_fields}
    try:
        settings = model.model_validate(tree)
    except ValidationError as error:
        named = {line.partition(": ")[0] for line in found}
        found += [line for line in problems.lines(error, origins, model) if line.partition(": ")[0] not in named]
    if found:
        raise ConfigError("\n".join(found))  # outside the except, whose context would carry the raw values
    settings.origins.update(origins)
    settings._installed = installed
    return settings


def _folders(path: str | None, environ: Mapping[str, str]) -> list[Path]:
    """`plugins.paths`, unchecked."""
    tree, _ = layers.read(Settings, path, environ, [])
    section: Any = tree.get("plugins")
    paths = section.get("paths") if isinstance(section, dict) else None
    return [Path(each) for each in paths if isinstance(each, str)] if isinstance(paths, list) else []


@functools.lru_cache(8)
def _model(plugins: tuple[Plugin, ...]) -> type[Settings]:
    """One model with the core's and the plugins' sections. Raises ConfigError for a section of two plugins."""
    owners = dict.fromkeys(Settings.model_fields, "the core")
    for plugin in plugins:
        assert plugin.settings is not None
        for name in plugin.settings.model_fields:
            if name in owners:
                raise ConfigError(
                    f"the section {name} is declared twice: by {owners[name]} and by plugin {plugin.name}"
                )
            owners[name] = f"plugin {plugin.name}"
    bases: list[type[BaseModel]] = [plugin.settings for plugin in plugins if plugin.settings is not None]
    made: type[Settings] = types.new_class("Settings", (*bases, Settings))
    return made
