"""`python dependencies.py ENVIRONMENT`: copy sytq's locked dependencies from this virtual environment into another.

pip finds them installed then. It would ask the index for each of them and compile every module.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

from packaging.requirements import Requirement


def needed(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Names of the distributions that a distribution needs with these extras, itself included."""
    if (name, extras) in found:
        return set()
    found.add((name, extras))
    names = {name}
    for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            names |= needed(requirement.name, frozenset(requirement.extras), found)
    return names


def main() -> None:
    site = next(Path(sys.argv[1]).glob("lib/python3*/site-packages"))
    for name in needed("sytq", frozenset(), set()) - {"sytq"}:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            if ".." in file.parts:  # a program, which the service does not need
                continue
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(distribution.locate_file(file)), site / file)


if __name__ == "__main__":
    main()
