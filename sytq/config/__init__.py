"""The configuration: `load()` reads it once at the start of a process, `Settings` carries it from there.

`load` is the only reader of the environment and of configuration files in the whole package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import ValidationError

from sytq.config import layers, problems
from sytq.config.llm import Limits, Node, Price, Provider, StatusLabels
from sytq.config.sections import TaskType
from sytq.config.settings import Settings
from sytq.errors import ConfigError

__all__ = ["Limits", "Node", "Price", "Provider", "Settings", "StatusLabels", "TaskType", "load"]


def load(path: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read defaults < YAML file < old variables < SYTQ_ variables < secret files.

    `path` names the YAML file and defaults to SYTQ_CONFIG; without either there is no file. `environ`
    defaults to the environment as it is now. Raises ConfigError with one line for every problem.
    """
    found: list[str] = []
    tree, origins = layers.read(path, os.environ if environ is None else environ, found)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        found += problems.lines(error, origins)
    if found:
        raise ConfigError("\n".join(found))  # outside the except: its context would carry the raw values
    settings.origins.update(origins)
    return settings
