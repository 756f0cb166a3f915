"""The exceptions that sytq raises on purpose. Imports nothing of sytq."""

from __future__ import annotations

from typing import Any

from sytq.deprecated import renamed_arguments, warn


class SytqError(Exception):
    """Base of the errors whose message is for a person or a caller."""


class ConfigError(SytqError):
    """The configuration cannot be used; the message names key, value and what is valid."""


class InvalidInput(SytqError):
    """A caller's input is invalid; becomes a 4xx that names the field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.fields = [(field, message)]


class InvalidFields(InvalidInput):
    """Several fields are invalid; the message is the first field's."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        super().__init__(*fields[0])
        self.fields = fields


class InvalidQuery(InvalidInput):
    """A query for tasks is invalid; `position` counts characters from 0."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__("query", f"at character {position + 1}: {message}")
        self.position = position


class DatabaseUnavailable(SytqError):
    """The ledger did not answer; nothing was accepted and the caller may try again."""


class RedisUnavailable(SytqError):
    """Redis did not answer; the reconciler dispatches accepted tasks later."""


class RedisRefused(RedisUnavailable):
    """Redis answered and refused: a right is missing, its memory is full, it is read-only or loads its data."""


class Overloaded(SytqError):
    """Too many callers wait in this process; nothing was accepted and the caller may try again."""


class OutboundRefused(SytqError):
    """The guard refuses a caller's URL; the message says why."""


class ProxyFailed(Exception):
    """The configured proxy cannot be used; the target is not at fault."""


class CertificateUnusable(Exception):
    """The client certificate or its key cannot be loaded; the message names the file."""


class DuplicatePlugin(ConfigError):
    """Two task types have the same name; the message names both sources."""


class BackupBroken(SytqError):
    """A backup cannot be restored: the file is damaged, or the database does not fit."""


class Retry(Exception):
    """Raised by a task to run again later.

    `after` is seconds or a duration such as "10s"; None lets the type's policy choose.
    With `consumes_attempt=False` this attempt is not counted (waiting for a limit, a paused provider). With the
    `permit` of a caught `Waiting` the task also waits in the wait queue of its limiter, for `after` at most.
    """

    @renamed_arguments(counts="consumes_attempt")
    def __init__(
        self, after: float | str | None = None, *, consumes_attempt: bool = True, reason: str = "", permit: Any = None
    ) -> None:
        super().__init__(reason or "the task asked to be retried")
        self.after = after
        self.consumes_attempt = consumes_attempt
        self.permit = permit


class Waiting(Retry):
    """Raised by `ctx.acquire` and `ctx.turn`: a limiter has no permit free, or an earlier task has the same key.

    `limiter` names the limiter. `unavailable` when it is paused or its circuit breaker not closed: waiting for other
    tasks does not help.
    """

    @renamed_arguments(closed="unavailable")
    def __init__(
        self, after: float, *, reason: str, unavailable: bool = False, limiter: str | None = None, permit: Any = None
    ) -> None:
        super().__init__(after, consumes_attempt=False, reason=reason, permit=permit)
        self.unavailable = unavailable
        self.limiter = limiter

    @property
    def closed(self) -> bool:
        """The old name of `unavailable`, until 0.3."""
        warn("Waiting.closed", "Waiting.unavailable")
        return self.unavailable


class Fail(Exception):
    """Raised by a task that can never succeed: the task is dead at once, with this reason."""


class Cancelled(Exception):
    """Raised by a `ctx` call in a running task that was cancelled."""


class Lost(Exception):
    """Raised by a `ctx` call when another worker has the task, or the task has `ended`; nothing may be changed."""

    def __init__(self, message: str, *, ended: bool = False) -> None:
        super().__init__(message)
        self.ended = ended


class TimedOut(Exception):
    """An attempt took longer than the `timeout` of its type."""
