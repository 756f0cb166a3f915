"""The overview: whether all is well at a glance, and charts of the ledger."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

from sytq.ledger.values import utcnow
from tests.api.dashboard.browser import Browser, browse_as
from tests.api.dashboard.rows import inserted
from tests.installation import Installation
from tests.servers import poll


def page(browser: Browser, **query: str) -> str:
    return " ".join(browser.get(**query).html.split())


def ended(service: Installation, count: int, **more: Any) -> None:
    at = utcnow() - dt.timedelta(seconds=90)
    row = {"state": "succeeded", "owner": "shop", "queue": "default", "priority": "low", "attempts": 1}
    inserted(service, count, **(row | {"created_at": at, "started_at": at, "finished_at": at} | more))


def test_a_worker_counts_for_the_charts_and_all_is_well(make_installation: Callable[..., Installation]) -> None:
    service = make_installation(SYTQ_AUTH__ENABLED="true")
    service.start_api()
    admin, crm = browse_as(service, "ops", "read", "admin"), browse_as(service, "crm", "read")
    assert "no worker is alive: tasks are accepted and wait" in page(admin)
    assert '<a href="/dashboard/workers">no worker is alive' in page(admin)
    ended(service, 30)
    ended(service, 20, owner="crm", queue=None, priority=None)
    service.start_worker()
    poll(lambda: "In this range: 50 accepted, 50 succeeded" in page(admin))
    assert "All is well." in page(admin)
    html = page(admin, range="week", type="default")
    assert "Tasks per hour" in html and "In this range: 50 accepted" in html
    low, normal = (
        re.search(rf"<tr> <th[^>]*><a[^>]*>default</a></th> <td>{name}</td>.*?</tr>", html)
        for name in ("low", "normal")
    )
    assert low and normal and low[0].count(">6</td>") == 2 and normal[0].count(">4</td>") == 2  # in and out a minute
    assert "In this range: 20 accepted" in page(crm)  # another owner's tasks do not exist
    assert "In this range: 0 accepted" in page(admin, type="webhook")
    admin.get("?range=year", 400)
