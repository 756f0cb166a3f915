"""Task type `email`: sends one message to several recipients, each of whom accepts it, refuses it, or is retried.

A round of delivery is a step: a recipient whose server has accepted the message does not get it again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from sytq import AsyncContext, Fail, Limiter, Permit, Plugin, Retry, Waiting, clock, task
from sytq.config import Section
from sytq.config.fingerprint import fingerprint
from sytq.config.values import Port, Secret, Size, problem
from sytq.durations import Duration
from sytq.errors import RedisUnavailable

from .message import Line, Mailbox, Unbuildable, address, build

_RETRY_BOUNDS = (10.0, 900.0)  # seconds between rounds; within them, the age of the message


_one_or_many = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
Mailboxes = Annotated[list[Mailbox], _one_or_many, Field(max_length=500)]


class Attachment(BaseModel):
    """A file in one of the folders `types.email.attachments`, by its relative or full path."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=1024)
    name: Line | None = None


class Email(BaseModel):
    """A message: `text` and `html` (either may be absent), or a template and its data."""

    model_config = ConfigDict(extra="forbid")

    to: Mailboxes = []
    cc: Mailboxes = []
    bcc: Mailboxes = []
    reply_to: Mailbox | None = None
    subject: Line = ""
    text: str | None = None
    html: str | None = None
    template: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    data: dict[str, Any] = {}
    attachments: list[Attachment] = Field(default=[], max_length=20)

    @model_validator(mode="after")
    def _one_source(self) -> Email:
        if self.template and (self.text is not None or self.html is not None):
            raise ValueError("a template, or text and html; not both")
        return self


#: Settings that no login depends on.
_OF_MESSAGES = frozenset({"to", "templates", "attachments", "max_attachments", "deadline", "keep_trying"})


class Config(Section):
    """`types.email`."""

    host: str | None = None
    port: Port | None = None  # None: 587, 465 or 25, according to `security`
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None  # None: the system's certificates
    username: str = ""
    password: Secret = SecretStr("")
    sender: Mailbox | None = None
    to: Mailboxes = Field(default=[])
    templates: Path | None = None
    attachments: list[Path] = Field(default=[])
    max_attachments: Size = 20 << 20
    deadline: Annotated[Duration, Field(gt=0)] = 60.0
    keep_trying: Duration = 86400.0

    @property
    def server_port(self) -> int:
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]

    @functools.cached_property
    def server(self) -> Limiter:
        """The limiter of the server, at which messages wait for another login."""
        configuration = fingerprint("email", self, without=_OF_MESSAGES)
        return Limiter(f"smtp:{self.host}:{self.server_port}", configuration=configuration)

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if self.host and not self.sender:
            raise problem("host without a sender", "such as Shop <shop@example.org>", key="sender", value="")
        if self.username and self.security == "none":
            raise problem("a password would go in the clear", "starttls, tls", key="security", value="none")
        return self


plugin = Plugin("email", configurations=lambda runtime: [runtime.registry.get("email").config.server.configuration])


def show(payload: Email, result: Any) -> dict[str, object]:
    """The fields of a message to show to a person."""
    to = [address(mailbox) for mailbox in payload.to]
    more = f" and {len(to) - 3} more" if len(to) > 3 else ""
    sent = f"{len(result['sent'])} sent, {len(result['refused'])} refused" if result else None
    return {"to": ", ".join(to[:3]) + more or None, "subject": payload.subject, "outcome": sent}


def _limiters(payload: Email, config: Config) -> list[str]:
    return [config.server.name] if config.host else []


@task("email", payload=Email, queue="email", config=Config, limiters=_limiters, show=show, search=["subject"])
async def email(ctx: AsyncContext, payload: Email) -> dict[str, Any]:
    """Send a message by SMTP; only recipients whose server said "later" are retried."""
    from .delivery import NotLoggedIn, Undelivered, deliver

    config: Config = ctx.config
    if not config.host or not config.sender:
        missing = "no mail server is configured: set types.email.host and .sender"
        _later(ctx, config, missing, {}, await _queue(ctx, config, missing))
    to = payload.to or config.to
    wanted = list(dict.fromkeys(address(mailbox) for mailbox in (*to, *payload.cc, *payload.bcc)))
    if not wanted:
        raise Fail("nobody to send to: neither the payload nor types.email.to names a recipient")
    try:
        message_id, message = await ctx.blocking(build, payload, config, to, ctx.id, ctx.created_at)
    except Unbuildable as error:
        raise Fail(str(error)) from None
    outcomes: dict[str, str] = {}  # address -> "sent", or the refusal with its code
    deferred: set[str] = set()  # in this attempt
    for number in itertools.count():
        pending = [one for one in wanted if not _final(outcomes.get(one, "4")) and one not in deferred]
        if not pending:
            break
        delivered_now = False

        async def deliver_round(pending: list[str] = pending) -> dict[str, str]:
            nonlocal delivered_now
            async with ctx.acquire(config.server) as permit:
                delivered_now = True
                try:
                    found = await deliver(config, pending, message, min(config.deadline, ctx.remaining()))
                except Undelivered:
                    permit.report("failed")
                    raise
                permit.report("ok")
                return found

        try:
            found = await ctx.step(f"round-{number}", deliver_round)
        except NotLoggedIn as error:
            _later(ctx, config, str(error), outcomes, await _queue(ctx, config, str(error)))
        except Undelivered as error:
            _later(ctx, config, str(error), outcomes)
        outcomes |= found
        if delivered_now:
            deferred.update(one for one, outcome in found.items() if not _final(outcome))
    if deferred:
        _later(
            ctx, config, f"{len(deferred)} refused for now ({_codes(map(outcomes.__getitem__, deferred))})", outcomes
        )
    sent = [one for one in wanted if outcomes[one] == "sent"]
    lost = {one: outcome for one, outcome in outcomes.items() if outcome != "sent"}
    if not sent:
        raise Fail(f"refused for good for all {len(lost)} recipients ({_codes(lost.values())})")
    return {"message_id": message_id, "sent": sent, "refused": lost}


def _final(outcome: str) -> bool:
    return not outcome.startswith("4")


def _codes(refusals: Iterable[str]) -> str:
    """The codes alone: the text of a refusal often quotes the recipient."""
    return ", ".join(sorted({refusal[:3] for refusal in refusals}))


async def _queue(ctx: AsyncContext, config: Config, reason: str) -> Permit | None:
    """What the message waits for, too: a limiter whose pause ends when a worker is configured otherwise or reloaded."""
    server = config.server
    try:
        await ctx.pause_limiter(server.name, reason, seconds=_delay(ctx), configuration=server.configuration)
        async with ctx.acquire(server):
            return None
    except Waiting as waiting:
        permit: Permit | None = waiting.permit
        return permit
    except RedisUnavailable:
        return None


def _later(
    ctx: AsyncContext, config: Config, reason: str, outcomes: dict[str, str], permit: Permit | None = None
) -> NoReturn:
    """Retry when the message is twice as old, until it is `keep_trying` old; a deferral is no failed attempt."""
    age = _age(ctx)
    sent = sum(outcome == "sent" for outcome in outcomes.values())
    so_far = f"; {sent} sent" if sent else ""
    if age >= config.keep_trying:
        raise Fail(f"given up after {age:.0f} s: {reason}{so_far}") from None
    raise Retry(_delay(ctx), consumes_attempt=False, reason=f"{reason}{so_far}", permit=permit) from None


def _age(ctx: AsyncContext) -> float:
    return (clock.utc() - ctx.created_at).total_seconds()


def _delay(ctx: AsyncContext) -> float:
    shortest, longest = _RETRY_BOUNDS
    return min(max(_age(ctx), shortest), longest)
