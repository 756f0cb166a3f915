"""The checkpoint of one step: its result on its way into the ledger, and beside the task in Redis meanwhile.

A result may have cost money. Only a refused fencing token, or the loss of both stores at once, makes it worthless.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import peewee

from sytq.broker.delivery import Delivery
from sytq.broker.operations import Operations
from sytq.errors import Cancelled, DatabaseUnavailable, Fail, InvalidInput, Lost, RedisUnavailable, Retry
from sytq.ledger import refusals
from sytq.ledger.ledger import Ledger

#: Seconds between two tries to write a result, doubled each time up to the second number.
_PAUSE, _LONGEST_PAUSE = 0.5, 4.0
#: What says itself how the task goes on.
_ON_PURPOSE = (DatabaseUnavailable, RedisUnavailable, InvalidInput, Fail, Retry, Cancelled)


class Checkpoint:
    """Blocks; its methods raise Lost."""

    def __init__(self, ledger: Ledger, operations: Operations, delivery: Delivery, name: str, log: Any) -> None:
        self._ledger = ledger
        self._operations = operations
        self._id, self._token = delivery.id, delivery.token
        self._name = name
        self._log = log.bind(step=name)
        self._kept = False
        self._unavailable: RedisUnavailable | None = None
        self._pause = _PAUSE
        self.result: str | None = None  # JSON text
        self.done = False

    def look(self) -> None:
        """Find the `result` that an earlier attempt left in Redis."""
        try:
            self.result = self._operations.kept_result(self._id, self._name)
            self._kept = self.result is not None
        except RedisUnavailable as error:
            self._unavailable = error

    def begin(self) -> None:
        """Begin the step, or find that it is `done`, with its `result`, in the database.

        Raises DatabaseUnavailable, and RedisUnavailable when an earlier attempt may have left a result there.
        """
        try:
            step = self._ledger.begin_step(self._id, self._token, self._name, has_result=self._kept)
        except peewee.PeeweeException as error:
            raise self._refusal(error) from error
        if step.state == "done":
            self.done, self.result = True, step.value or "null"
        elif self._unavailable is not None and step.interrupted:
            raise self._unavailable

    def write(self, also: Callable[[], None] | None) -> float:
        """Write the result and what `also` writes; return 0, or the seconds until the next try.

        Raises DatabaseUnavailable for a fault of our tables and for an error that nobody knows, and what `also` raises
        on purpose, but only once Redis has the result: the next attempt begins with it.
        """
        assert self.result is not None
        try:
            self._ledger.finish_step(self._id, self._token, self._name, self.result, also)
        except Lost:
            raise
        except Exception as error:
            kept = self._keep()  # each time: Redis may have been emptied meanwhile
            refusal = error if isinstance(error, _ON_PURPOSE) else self._refusal(error)
            known = isinstance(error, (*_ON_PURPOSE, peewee.PeeweeException))
            self._log.warning(
                "checkpoint waits for the database",
                error=str(refusal),
                kept_in_redis=kept,
                exc_info=None if known else error,
            )
            if kept and not isinstance(error, DatabaseUnavailable):
                raise refusal from error
        else:
            self.done = True
            if self._kept:
                with suppress(RedisUnavailable):  # the reconciler drops it once the task has ended
                    self._operations.drop_result(self._id, self._name)
            return 0.0
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def forget(self) -> None:
        """Remove a step that failed with an answer; while the database is unavailable it counts as interrupted."""
        with suppress(DatabaseUnavailable, peewee.PeeweeException):
            self._ledger.forget_step(self._id, self._token, self._name)

    def _keep(self) -> bool:
        """Whether Redis has the result now: not while it is unavailable, nor when another attempt has the task."""
        assert self.result is not None
        try:
            kept = self._operations.keep_result(self._id, self._token, self._name, self.result)
        except RedisUnavailable:
            return False
        self._kept = self._kept or kept
        return kept

    def _refusal(self, error: Exception) -> DatabaseUnavailable:
        if not isinstance(error, peewee.PeeweeException):
            return DatabaseUnavailable(f"the checkpoint of step {self._name} failed: {type(error).__name__}")
        return refusals.of_own_tables(error, f"the checkpoint of step {self._name}")
