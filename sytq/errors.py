"""Every exception that sytq raises on purpose, one sentence each.

Owns the names; must not import anything of sytq.
"""

from __future__ import annotations

from sytq.deprecated import renamed_arguments, warn


class SytqError(Exception):
    """Base of all errors below that are addressed to a person or a caller."""


class ConfigError(SytqError):
    """The configuration cannot be used; the message names key, value and what is valid."""


class InvalidInput(SytqError):
    """A caller sent something that cannot be accepted; becomes a 4xx that names the field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class InvalidFields(InvalidInput):
    """Several fields that cannot be accepted; the message is that of the first."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        super().__init__(*fields[0])
        self.fields = fields


class InvalidQuery(InvalidInput):
    """A query for tasks that cannot be understood; `position` counts characters from 0."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__("query", f"at character {position + 1}: {message}")
        self.position = position


class DatabaseUnavailable(SytqError):
    """The ledger did not answer; nothing was accepted and the caller may try again."""


class RedisUnavailable(SytqError):
    """Redis did not answer; what was accepted is dispatched later by the reconciler."""


class Overloaded(SytqError):
    """More callers wait than this process has room for; nothing was accepted and the caller may try again."""


class OutboundRefused(SytqError):
    """The guard does not let a caller-supplied URL be reached; the message says why."""


class DuplicatePlugin(ConfigError):
    """Two task types carry one name; the message names both places."""


class BackupBroken(SytqError):
    """A backup cannot be restored: the file is not whole, or the database is not the one for it."""


class Retry(Exception):
    """Raised by a task: run me again.

    `after` is seconds or a duration such as "10s"; None lets the type's policy choose.
    With `consumes_attempt=False` this attempt is not counted (waiting for a limit, a paused provider).
    """

    @renamed_arguments(counts="consumes_attempt")
    def __init__(self, after: float | str | None = None, *, consumes_attempt: bool = True, reason: str = "") -> None:
        super().__init__(reason or "the task asked to be retried")
        self.after = after
        self.consumes_attempt = consumes_attempt


class Waiting(Retry):
    """Raised by `ctx.acquire` and `ctx.turn`: a limiter has no permit free, or an earlier task has the same key.

    `unavailable` when the limiter is paused or its circuit breaker not closed: waiting for other tasks does not help.
    """

    @renamed_arguments(closed="unavailable")
    def __init__(self, after: float, *, reason: str, unavailable: bool = False) -> None:
        super().__init__(after, consumes_attempt=False, reason=reason)
        self.unavailable = unavailable

    @property
    def closed(self) -> bool:
        """The old name of `unavailable`, until 0.3."""
        warn("Waiting.closed", "Waiting.unavailable")
        return self.unavailable


class Fail(Exception):
    """Raised by a task: this can never succeed; the task is dead now, with this reason."""


class Cancelled(Exception):
    """Raised at a `ctx` call of a running task that was cancelled."""


class Lost(Exception):
    """Raised at a `ctx` call of a worker whose task is another's by now, or has `ended`; it must change nothing."""

    def __init__(self, message: str, *, ended: bool = False) -> None:
        super().__init__(message)
        self.ended = ended


class TimedOut(Exception):
    """A run took longer than its type's `timeout`."""
