"""Runs checks concurrently, each with a deadline, and masks secrets in their findings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import peewee

from sytq.config import Settings
from sytq.config.masking import mask_text
from sytq.errors import SytqError
from sytq.service.finding import FAIL as FAIL
from sytq.service.finding import OK as OK
from sytq.service.finding import WARN as WARN
from sytq.service.finding import Finding as Finding

#: Seconds for all findings of one check; a check that takes longer is reported and abandoned.
DEADLINE = 8.0


Check = Callable[[Settings], Iterator[Finding]]


def examined(checks: Mapping[str, Check], settings: Settings) -> list[Finding]:
    """Run all checks concurrently and return their findings in order."""
    found: dict[str, list[Finding]] = {name: [] for name in checks}
    threads = {
        # A thread that hangs ends with the process.
        name: threading.Thread(target=_run, args=(name, check, settings, found[name]), daemon=True)
        for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + DEADLINE
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            late = f"no answer within {DEADLINE:g} s"
            found[name].append(Finding(name, FAIL, late, "check the server and the network: one of them hangs"))
    return [finding for each in found.values() for finding in each]


def _run(name: str, check: Check, settings: Settings, found: list[Finding]) -> None:
    try:
        for finding in check(settings):
            found.append(replace(finding, said=mask_text(finding.said)))
    except (SytqError, peewee.PeeweeException) as error:
        said = " ".join(str(error.args[-1] if error.args else error).split())
        found.append(Finding(name, FAIL, mask_text(said)[:300], "see the checks before this one"))
    except Exception as error:  # a broken check is a finding, too
        found.append(Finding(name, FAIL, f"the check failed: {type(error).__name__}", "report this as a bug"))
