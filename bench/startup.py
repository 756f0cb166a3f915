"""How long `sytq --help` takes beside Python itself: `python -m bench.startup`."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def milliseconds(command: list[str], times: int) -> list[float]:
    """Of so many runs, after one that fills the caches."""
    took = []
    for _ in range(times + 1):
        since = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        took.append((time.perf_counter() - since) * 1000)
    return took[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    program = str(Path(sys.executable).with_name("sytq"))
    print(f"{'':24} {'median ms':>10} {'worst ms':>10}")
    for name, command in {
        "python -c pass": [sys.executable, "-c", "pass"],
        "sytq --help": [program, "--help"],
        "sytq ls --help": [program, "ls", "--help"],
    }.items():
        took = milliseconds(command, times)
        print(f"{name:24} {statistics.median(took):>10.0f} {max(took):>10.0f}")


if __name__ == "__main__":
    main()
