"""One storm from beginning to end."""

from __future__ import annotations

from pathlib import Path

from tests.faults.storm import verdict
from tests.faults.storm.clients import Clients
from tests.faults.storm.service import Service
from tests.faults.storm.weather import Weather


def storm(folder: Path, seed: int, seconds: float, rate: float) -> list[str]:
    """Let it rage, wait for calm, print what happened and return the broken promises; the logs stay in `folder`."""
    service = Service(folder, seed)
    try:
        clients = Clients(service, rate, seed)
        try:
            Weather(service, seed).rage(seconds)
        finally:
            service.heal()
            clients.stop()
        found = verdict.wait_until_calm(service)
        found += verdict.problems(service, clients)
        print(verdict.figures(service, clients), *verdict.warnings(service), sep="\n")
        return found
    finally:
        service.close()
