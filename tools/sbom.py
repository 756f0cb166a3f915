"""Print what is installed beside this interpreter as a CycloneDX document (JSON): a bill of materials.

`make sbom` for the development environment's; the image carries its own in /opt/sytq/sbom.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys


def component(package: importlib.metadata.Distribution) -> dict[str, object]:
    name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    url = f"pkg:pypi/{name}@{package.version}"
    found: dict[str, object] = {"type": "library", "name": name, "version": package.version}
    found |= {"bom-ref": url, "purl": url}
    # The new field holds an SPDX expression, the old one anything from a name to a whole text.
    said = package.metadata.get("License-Expression")
    old = (package.metadata.get("License") or "").splitlines()
    if said:
        found["licenses"] = [{"expression": said}]
    elif len(old) == 1 and len(old[0]) < 100:
        found["licenses"] = [{"license": {"name": old[0]}}]
    return found


def main() -> None:
    parts = sorted(map(component, importlib.metadata.distributions()), key=lambda part: str(part["purl"]))
    (ours,) = (part for part in parts if part["name"] == "sytq")
    runtime = {"type": "platform", "name": "cpython", "version": sys.version.split()[0]}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": ours | {"type": "application"}},
        "components": [runtime, *(part for part in parts if part is not ours)],
    }
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
