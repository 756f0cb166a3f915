"""Runs `sytq doctor` in a process of its own: it finds what the command finds, and cannot hold up this process."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import sys
from dataclasses import dataclass

import structlog

from sytq.ledger.values import utcnow
from sytq.observability.process_group import FOLDER
from sytq.service.finding import Finding

log = structlog.get_logger(__name__)

#: Seconds for which findings are shown before the checks run again, for whoever looks.
_KEPT = 60.0
#: Seconds for all checks, which have deadlines of their own.
_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the checks found, or `failed`, why they found nothing."""

    at: dt.datetime
    findings: tuple[Finding, ...] = ()
    failed: str = ""


class Doctor:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self.latest: Diagnosis | None = None
        self._ends = float("-inf")
        self._running: asyncio.Task[None] | None = None

    def look(self) -> bool:
        """Start the checks if `latest` is too old; return whether they run now."""
        if self._running is None and asyncio.get_running_loop().time() > self._ends:
            self._running = asyncio.create_task(self._run())
        return self._running is not None

    async def findings(self) -> Diagnosis:
        """What the checks found within the last minute; waits for their end."""
        if self.look():
            assert self._running is not None
            await asyncio.shield(self._running)
        assert self.latest is not None
        return self.latest

    async def _run(self) -> None:
        try:
            self.latest = await _examine()
        except OSError as error:  # no process can be started
            self.latest = Diagnosis(utcnow(), failed=f"the checks could not be started: {error.strerror}")
        finally:
            self._ends = asyncio.get_running_loop().time() + _KEPT
            self._running = None


async def _examine() -> Diagnosis:
    # The child counts nothing among the metrics of this process' group.
    environ = {name: value for name, value in os.environ.items() if name != FOLDER}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sytq.cli", "doctor", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environ,
    )
    try:
        async with asyncio.timeout(_DEADLINE):
            said, _ = await process.communicate()
        found = tuple(Finding(**each) for each in json.loads(said)["checks"])
    except TimeoutError:
        return Diagnosis(utcnow(), failed=f"the checks did not end within {_DEADLINE:g} s")
    except (ValueError, KeyError, TypeError):
        log.warning("checks failed", code=process.returncode)
        return Diagnosis(utcnow(), failed=f"the checks ended with status {process.returncode} and found nothing")
    finally:
        if process.returncode is None:
            process.kill()
    return Diagnosis(utcnow(), found)
