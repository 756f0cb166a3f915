"""A ledger that simulates a crash before or after one of its writes; nothing is written after the crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sytq.ledger.ledger import Ledger

T = TypeVar("T")


class Crash(BaseException):
    """The worker is dead: no handler of the type may stop this exception."""


class CrashingLedger(Ledger):
    """A ledger that dies at `moment`: each write of an attempt has two, before it (even) and after it (odd).

    With None it lives, and `moments` counts them.
    """

    def __init__(self, ledger: Ledger, moment: int | None = None) -> None:
        super().__init__(ledger.database)
        self.moments = 0
        self._moment = moment

    def fenced(self, task_id: str, token: int, work: Callable[[], T]) -> T:
        """Every write of a running task passes here."""
        self._pass()
        done = super().fenced(task_id, token, work)
        self._pass()
        return done

    def _pass(self) -> None:
        if self._moment is not None and self.moments >= self._moment:
            raise Crash
        self.moments += 1
