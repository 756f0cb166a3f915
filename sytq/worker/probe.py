"""`python -m sytq.worker.probe`: a container's health check. Exits 0 when an API or a worker group is alive."""

from __future__ import annotations

import sys
import urllib.request

from sytq.config import load
from sytq.errors import ConfigError


def main() -> int:
    for port in _ports():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/live", timeout=2):
                return 0
        except OSError:
            continue
    return 1


def _ports() -> tuple[int, int]:
    try:
        settings = load()
    except ConfigError as error:  # the running process still has the configuration it started with, most likely there
        print(error, file=sys.stderr)
        return 8080, 8081
    return settings.api.port, settings.worker.port or 8081


if __name__ == "__main__":
    sys.exit(main())
