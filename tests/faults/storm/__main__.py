"""Minutes of random faults under load: `python -m tests.faults.storm [--minutes 10] [--seed N] [--at COMMIT]`.

The same seed gives the same faults in the same order. With `--at` an older commit is in the storm. Exit status 1 when a
promise was broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests import releases
from tests.faults.storm.storm import storm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--rate", type=float, default=10, help="submissions a second")
    parser.add_argument("--at", help="a commit")
    parser.add_argument("--keep", type=Path, help="a folder for the logs")
    given = parser.parse_args()
    if given.at:
        with tempfile.TemporaryDirectory() as folder:
            tree = releases.unpack(given.at, Path(folder), given.at)
            arguments = [argument for argument in sys.argv[1:] if argument not in ("--at", given.at)]
            return tree.drive("tests.faults.storm", *arguments).returncode
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        found = storm(place, given.seed, given.minutes * 60, given.rate)
    print(f"seed {given.seed}: {len(found)} promises broken", *found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
