"""The limiter of a URL's host, and the record of hosts that only fail."""

from __future__ import annotations

import contextlib
import functools
import time
from datetime import datetime, timedelta

from peewee import CharField, DateTimeField, Model
from yarl import URL

from sytq import AsyncContext, Breaker, Cancelled, Limiter, Lost, Transaction, clock
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.database import insert_ignore

from .config import HostException, HostLimits, WebhookSettings, first_match

_LOOKS = 10  # checks per process, at least, within `webhook.disable_after`
_LONGEST_PAUSE = 30.0
_MOST = 10_000

#: When this process last recorded a failure or success of a host (limiter name), by `time.monotonic`.
_written: dict[tuple[str, bool], float] = {}


class FailingHost(Model):
    """A host without a successful webhook since then; other hosts have no row."""

    host = CharField(primary_key=True)  # name of its limiter
    since = DateTimeField()

    class Meta:
        table_name = "sytq_failing_hosts"


def limiter_name(url: URL) -> str:
    return f"host:{url.raw_host}:{url.port}"


def limiter_of(url: URL, settings: WebhookSettings) -> Limiter:
    """The limiter of the URL's host and port, with its configured limits."""
    exception = first_match(settings.webhook.hosts, url)
    return _limiter(limiter_name(url), settings.webhook.host, exception, settings.webhook_configuration)


@functools.lru_cache(_MOST)
def _limiter(name: str, limits: HostLimits, exception: HostException | None, configuration: str) -> Limiter:
    breaker, has_breaker = limits.breaker, limits.breaker.enabled
    if exception:
        has_breaker = has_breaker if exception.breaker is None else exception.breaker
        own = exception.model_dump(include={"running", "adaptive", "rate"}, exclude_none=True)
        limits = limits.model_copy(update=own)
    calls, window = limits.rate or (0, 60.0)
    return Limiter(
        name,
        concurrency=limits.running,
        adaptive=limits.adaptive,
        calls=calls,
        window=window,
        breaker=Breaker(**breaker.model_dump(exclude={"enabled"})) if has_breaker else None,
        configuration=configuration,
    )


async def note(ctx: AsyncContext, limiter: str, *, delivered: bool) -> None:
    """Record since when a host has only failed; after `webhook.disable_after`, pause its limiter.

    Unavailable stores are ignored: the delivery is over. Does nothing when not configured.
    """
    own = ctx.settings.of(WebhookSettings)
    limit = own.webhook.disable_after
    if limit is None or not _due(limiter, delivered, min(limit / _LOOKS, _LONGEST_PAUSE)):
        return
    now = clock.utc().replace(tzinfo=None)

    def work(tx: Transaction) -> datetime | None:
        """Return since when the host has failed, where that is too long."""
        row, since = FailingHost.host == limiter, None
        if not delivered:
            insert_ignore(tx.database, "sytq_failing_hosts", {"host": [limiter], "since": [now]})
            since = FailingHost.get(row).since
            if now - since < timedelta(seconds=limit):
                return None
        FailingHost.delete().where(row).execute()  # after a person resumes the host, the time begins anew
        return since

    with contextlib.suppress(DatabaseUnavailable, RedisUnavailable, Lost, Cancelled):
        if (since := await ctx.transaction(work)) is not None:
            reason = f"only failures since {since:%Y-%m-%d %H:%M:%S} UTC"
            await ctx.pause_limiter(limiter, reason, alert=True, configuration=own.webhook_configuration)


def _due(limiter: str, delivered: bool, pause: float) -> bool:
    now, key = time.monotonic(), (limiter, delivered)
    if now - _written.get(key, -pause) < pause:
        return False
    if len(_written) >= _MOST:
        _written.clear()
    _written[key] = now
    return True
