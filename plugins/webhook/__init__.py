"""Task types `webhook` and `callback`: one HTTP request, repeated until it succeeds, on two schedules."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from sytq import AsyncContext, Backoff, DashboardPage, Plugin, task
from sytq.config import Settings
from sytq.http.guard import parse_url

from . import hosts_page
from .config import WebhookSettings, warnings
from .delivery import deliver
from .explanations import EXPLANATIONS
from .hosts import FailingHost, limiter_name
from .payload import Webhook, own_policy
from .task_page import panel, show
from .verdict import retry_after

__all__ = ["callback", "retry_after", "webhook"]

plugin = Plugin(
    "webhook",
    settings=WebhookSettings,
    warnings=warnings,
    models=(FailingHost,),
    migrations=Path(__file__).parent / "migrations",
    explanations=EXPLANATIONS,
    configurations=lambda runtime: [runtime.settings.of(WebhookSettings).webhook_configuration],
    pages={
        "hosts": DashboardPage(
            "Webhook hosts",
            hosts_page.hosts_page,
            parameters=("q",),
            actions={"pause": hosts_page.pause, "resume": hosts_page.resume, "test": hosts_page.test},
            action_scope="admin",
        )
    },
)


def _every_ten_seconds(settings: Settings) -> Backoff:
    pause = settings.worker.retry_interval
    return Backoff(first=pause, factor=1, max=pause, max_age="24h", jitter=0)


#: Both types make the same request; their schedules differ.
_request = partial(
    task,
    payload=Webhook,
    queue="webhook",
    retry_of=own_policy,
    timeout=lambda settings: settings.worker.request_timeout + 5,
    url=attrgetter("url"),
    order=attrgetter("ordering_key"),
    limiters=lambda payload: [limiter_name(parse_url(payload.url))],
    show=show,
    panel=panel,
)


@_request("webhook", retry=_every_ten_seconds)
async def webhook(ctx: AsyncContext, payload: Webhook) -> dict[str, Any]:
    """Make an HTTP request, every 10 s for up to 24 h, until the response is a 2xx."""
    return await deliver(ctx, payload)


@_request("callback", retry=Backoff(first="5s", factor=2, max="1h", max_age="24h", jitter=0.2), role="announcement")
async def callback(ctx: AsyncContext, payload: Webhook) -> dict[str, Any]:
    """Announce the end of another task, with growing delays for up to 24 h, until the response is a 2xx."""
    return await deliver(ctx, payload, announces=True)
