"""Check that the wheel named on the command line carries every file of sytq/ and plugins/."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"sytq": "sytq", "plugins": "sytq_plugins"}


def main(wheel: str) -> int:
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = sorted(expected - packed)
    for name in missing:
        print(f"not in {wheel}: {name}", file=sys.stderr)
    print(f"{wheel}: {len(expected) - len(missing)} of {len(expected)} files")
    return 1 if missing or not expected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
