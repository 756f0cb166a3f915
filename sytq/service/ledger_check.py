"""Whether the ledger takes a submission: the answer of readiness, `sytq_database_up` and `sytq doctor`."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import peewee

from sytq.errors import DatabaseUnavailable
from sytq.ledger.insert import try_to_insert
from sytq.ledger.refusals import said

OK = "ok"
#: Seconds for which a good answer holds. A bad one is asked for again at once, so that nobody waits for the end of it.
_FRESH = 1.0
#: Seconds between two checks that allocate, as each of them is a write of some pages that replicas repeat.
_ALLOCATES_EVERY = 10.0
#: An account as MySQL names it in a refusal; the answer goes to anybody who asks.
_ACCOUNT = re.compile(r"(user )?'[^']*'@'[^']*'")


def look(database: peewee.Database, missing: Callable[[], list[str]], *, allocate: bool = True) -> str:
    """Return "ok", or why the ledger takes no submission: the database's own words."""
    try:
        if names := missing():
            return f"migrations pending: {', '.join(names)} (run `sytq db migrate`)"
        try_to_insert(database, allocate=allocate)
    except DatabaseUnavailable as error:
        return _ACCOUNT.sub("the user", str(error))
    except peewee.PeeweeException as error:
        return _ACCOUNT.sub("the user", said(error))
    return OK


class LedgerCheck:
    """Looks at most once a second while all is well, whoever asks. Thread-safe; askers share a look.

    Submissions are evidence: a written one spares a look, a refused one asks for the next. None is a verdict: a refusal
    may be about one caller's tasks.
    """

    def __init__(self, database: peewee.Database, missing: Callable[[], list[str]]) -> None:
        self._database = database
        self._missing = missing
        self._lock = threading.Lock()
        self._state = OK
        self._until = 0.0
        self._allocates_at = 0.0
        self._refusals = 0

    def state(self) -> str:
        """Return "ok" or the reason; blocks while the database does."""
        with self._lock:
            if self._state != OK or time.monotonic() >= self._until:
                refusals, began = self._refusals, time.monotonic()
                allocate = self._state != OK or began >= self._allocates_at
                self._state = look(self._database, self._missing, allocate=allocate)
                if self._state == OK and refusals == self._refusals:
                    self._until = time.monotonic() + _FRESH
                    if allocate:
                        self._allocates_at = began + _ALLOCATES_EVERY
            return self._state

    def accepted(self) -> None:
        """Note that a submission was written."""
        if self._state == OK and self._until:
            self._until = time.monotonic() + _FRESH

    def refused(self) -> None:
        """Note that the database took no submission: the next look comes at once, and allocates."""
        self._refusals += 1
        self._until = self._allocates_at = 0.0
