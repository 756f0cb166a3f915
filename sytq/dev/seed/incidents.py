"""What went wrong in the made-up days: each cause has a type, a time and a share of the tasks that it failed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from sytq.errors import Fail, Retry
from sytq.worker.middleware.retry import fingerprint

HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Cause:
    """Fails `share` of the tasks of a type that were accepted between `since` and `until` ago, and wastes further
    `attempts` before that; those of one `host`, if it names one."""

    type: str
    error: Exception
    share: float
    attempts: int = 1
    host: str | None = None
    status: int | None = None
    kind: str | None = None  # the class of an HTTP failure, or of a provider's
    since: dt.timedelta = dt.timedelta(days=9)
    until: dt.timedelta = dt.timedelta()
    mark: str | None = None

    @property
    def fingerprint(self) -> str:
        return self.mark or fingerprint(self.type, self.error)


def _host(host: str, said: str, share: float, **more: object) -> Cause:
    return Cause("webhook", Retry(reason=f"{said} {host}"), share, host=host, **more)  # type: ignore[arg-type]


#: This host has failed since then, and still does.
FAILING, FAILING_SINCE = "hooks.nordwind.example", 26 * HOUR

CAUSES = (
    _host(FAILING, "HTTP 503 from", 0.95, attempts=7, status=503, since=FAILING_SINCE),
    _host("api.lagerhaus.example", "connection refused by", 0.9, attempts=5, kind="refused",
          since=90 * HOUR, until=68 * HOUR),
    Cause("webhook", Retry(reason="crm.eichhorn.example timed out"), 0.3, attempts=4, host="crm.eichhorn.example",
          kind="timeout"),
    Cause("webhook", Fail("HTTP 410 from shop.kranich.example: it is gone for good"), 0.97, host="shop.kranich.example",
          status=410),
    Cause("llm", Fail("deepseek: the provider filtered the answer [content_filter]"), 0.02, kind="content_filter"),
    Cause("llm", Fail("deepseek: the answer was cut at 4096 tokens [length]"), 0.015, kind="length"),
    Cause("email", Fail("refused for good for all 1 recipients (550)"), 0.045, since=150 * HOUR, until=10 * HOUR),
    Cause("default",
          Fail("the worker died each of the 2 times that this task ran alone in it: out of memory (SIGKILL)"), 0.5,
          attempts=2, since=33 * HOUR, until=27 * HOUR, mark="worker-died"),
)  # fmt: skip


def cause_of(type_name: str, age: dt.timedelta, host: str | None = None) -> Iterator[Cause]:
    """The causes that may fail a task of that age."""
    of_type = (cause for cause in CAUSES if (cause.type, cause.host) == (type_name, host))
    return (cause for cause in of_type if cause.until <= age <= cause.since)
