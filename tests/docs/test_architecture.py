"""docs/architecture.md names every folder and the layers of the import contract."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")


def names(heading: str) -> list[set[str]]:
    """The names in the first column of the table with this heading, a set for each row."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return [set(re.findall(r"`([^`]+)`", row.split("|")[1])) for row in table.splitlines()[2:]]


def modules(folder: str) -> set[str]:
    """The folders and modules of a package."""
    return {
        path.stem
        for path in (ROOT / folder).iterdir()
        if path.stem != "__init__" and (path.suffix == ".py" or (path / "__init__.py").is_file())
    }


def test_layers_on_the_page_are_those_of_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = [one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    assert names("folder or module of `sytq/`") == [
        {name.strip("() ") for name in layer.split("|")} for layer in contract["layers"]
    ]


def test_every_folder_and_module_is_on_the_page_and_no_others() -> None:
    for package in ("sytq", "plugins"):
        assert set().union(*names(f"folder or module of `{package}/`")) == modules(package)


def test_every_folder_inside_a_folder_is_on_the_page_and_no_others() -> None:
    inside = {
        f"{path.relative_to(ROOT)}/"
        for path in (ROOT / "sytq").glob("*/*/")
        if path.is_dir() and path.name != "__pycache__" and any(path.glob("*.*"))
    }
    assert set().union(*names("inside")) == inside
