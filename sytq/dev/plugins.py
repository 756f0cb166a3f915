"""The folder of plugin files of the project that `sytq dev` runs in.

Owns which one that is.
"""

from __future__ import annotations

from pathlib import Path

#: Where `sytq plugin new` writes to and `sytq dev` looks, when plugins.paths names no other.
HERE = "plugins"


def here() -> Path | None:
    """The folder, when it is there. One that is a Python package is something else."""
    folder = Path(HERE).absolute()
    return folder if folder.is_dir() and not (folder / "__init__.py").exists() else None
