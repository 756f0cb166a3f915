"""A delivery: the message of one attempt in this process, and the outcome that its acknowledgement writes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Literal

from dramatiq import Message
from dramatiq.broker import MessageProxy

from sytq import clock
from sytq.broker.limiter import Permit
from sytq.broker.waits import Waits

#: done | retry after a delay | dead | cancelled | back to the queue as if not started | a dead letter with its bytes
OutcomeKind = Literal["done", "retry", "dead", "cancelled", "return", "unreadable"]


#: The limiters that a message names, as dispatcher.py writes them.
_NAMES = re.compile(rb'^([^\[]*"priority": "\w*"), "limiters": "[^"]*"')


@dataclass(slots=True)
class Outcome:
    """The outcome of an attempt, the only argument of the acknowledgement."""

    kind: OutcomeKind
    delay: float = 0.0  # seconds until the next attempt, for retry
    consumes_attempt: bool = True
    result: str | None = None  # JSON text
    error: str | None = None  # one line for a person, no payload
    fingerprint: str | None = None
    permit: Permit | None = None  # that the attempt was refused: the task waits for it in the limiter's wait queue


#: The task's state after each outcome (as in ack.lua), and the attempt's outcome in the ledger.
STATES = {
    "done": "succeeded",
    "retry": "retrying",
    "dead": "dead",
    "unreadable": "dead",
    "cancelled": "cancelled",
    "return": "queued",
}
OUTCOMES = STATES | {"retry": "failed", "return": "returned"}


def named(outcome: Outcome) -> str:
    """Return the attempt's outcome in the ledger."""
    return OUTCOMES[outcome.kind] if outcome.consumes_attempt or outcome.kind != "retry" else "waited"


class Delivery(MessageProxy):
    """The message of one attempt. `token`, the fencing token, is larger than in every earlier attempt."""

    def __init__(
        self,
        message: Message[Any],
        *,
        stream: str,
        entry: bytes,
        body: bytes,
        attempts: int,
        max_attempts: int,
        token: int,
        permit: Permit | None = None,
    ) -> None:
        super().__init__(message)
        self.id = message.message_id
        self.type = message.actor_name
        self.stream = stream
        self.entry = entry  # changes when Redis was emptied and the worker registers its tasks again
        self.body = body
        self.attempts = attempts
        self.max_attempts = max_attempts
        self.token = token
        self.permit = permit  # that the task was fetched with
        self.stepped = False  # a step is done: what the attempts began with may not be needed any more
        self.started = clock.now()
        self.held_at = time.monotonic()  # when Redis was last asked whether this attempt holds the task, and said yes
        self.ended = 0.0  # when the outcome was known
        self.passing = False  # it has ended, and Redis has not taken the outcome yet
        self.lost = False  # another attempt has the task, so that this one was cancelled
        self.returned = ""  # why the attempt was cancelled so that the task returns to its queue
        self.cancelled_by: str | None = None  # set by the heartbeat once a cancellation was asked for
        self.polls = False  # its function asks whether it is cancelled
        self.progress: dict[str, Any] | None = None
        self.detail: dict[str, Any] = {}  # for the ledger
        self.waits = Waits(message.message_timestamp, entry)  # likewise
        self.result: Any = None
        self.outcome: Outcome | None = None

    @property
    def payload(self) -> Any:
        """The payload as submitted (a JSON value)."""
        return self._message.args[0]

    @property
    def version(self) -> int | None:
        """The payload's version at acceptance; None is the current version."""
        version = self._message.options.get("version")
        return version if isinstance(version, int) else None

    @property
    def next_body(self) -> bytes:
        """The message for another attempt, which starts without named permits once a step is done."""
        return _NAMES.sub(rb"\1", self.body) if self.stepped else self.body

    @property
    def request_id(self) -> str | None:
        """The id of the request that submitted the task."""
        return self._message.options.get("request_id")

    @property
    def traceparent(self) -> str | None:
        """The submitting request's trace (W3C)."""
        return self._message.options.get("traceparent")

    @property
    def origin(self) -> dict[str, str]:
        """Log fields about the submitting request."""
        fields = {"request_id": self.request_id, "trace_id": (self.traceparent or "--").split("-")[1]}
        return {name: value for name, value in fields.items() if value}

    @property
    def created_ms(self) -> int:
        """When the task was accepted, in Unix milliseconds."""
        return self._message.message_timestamp

    @property
    def exception(self) -> BaseException | None:
        """The exception that the attempt raised."""
        return self._exception

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The actor's only argument is this delivery."""
        return (self,)

    @property
    def kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        return {}

    def __str__(self) -> str:
        """Type and id, never the payload: Dramatiq logs this."""
        return f"{self.type}({self.id})"

    __repr__ = __str__
    __eq__, __hash__ = object.__eq__, object.__hash__  # Dramatiq compares messages by their content


def cancellation(run: Delivery) -> str:
    """Return one line about why an attempt was cancelled."""
    return f"cancelled by {run.cancelled_by}" if run.cancelled_by else "cancelled"
