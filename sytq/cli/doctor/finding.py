"""What a check finds, and how all of them run: at once, each in its time, and without a secret in what they say.

Owns the verdicts and the deadline. Must not know what is looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import peewee

from sytq.config import Settings
from sytq.config.masking import mask_text
from sytq.errors import SytqError

OK, WARN, FAIL = "ok", "warn", "fail"
#: Seconds for all findings of one check. What hangs for longer is given up and said so.
DEADLINE = 8.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`said` is what is, `todo` what to do about it when it is not well."""

    check: str
    verdict: str
    said: str
    todo: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def examined(checks: Mapping[str, Check], settings: Settings) -> list[Finding]:
    """Run all checks at once and return what they found, in their order."""
    found: dict[str, list[Finding]] = {name: [] for name in checks}
    threads = {
        # Nobody waits for one that hangs: it ends with the process.
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
            found[name].append(
                Finding(name, FAIL, late, "look at what it should answer: it hangs, or the network does")
            )
    return [finding for each in found.values() for finding in each]


def _run(name: str, check: Check, settings: Settings, found: list[Finding]) -> None:
    try:
        for finding in check(settings):
            found.append(replace(finding, said=mask_text(finding.said)))
    except (SytqError, peewee.PeeweeException) as error:
        said = " ".join(str(error.args[-1] if error.args else error).split())
        found.append(Finding(name, FAIL, mask_text(said)[:300], "see the checks before this one"))
    except Exception as error:  # a check must not be what is wrong
        found.append(Finding(name, FAIL, f"could not be checked: {type(error).__name__}", "report this"))
