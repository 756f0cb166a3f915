"""The folder with the plugin files of the project in which `sytq dev` runs."""

from __future__ import annotations

from pathlib import Path

#: The folder of `sytq plugin new` and `sytq dev` unless plugins.paths names another.
HERE = "plugins"


def here() -> Path | None:
    """The folder, or None when it does not exist or is a Python package."""
    folder = Path(HERE).absolute()
    return folder if folder.is_dir() and not (folder / "__init__.py").exists() else None
