"""The overview: whether all is well at a glance, charts of the ledger, and what is left of it without a store."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable
from typing import Any

from sytq.ledger.rollup import Rollup
from sytq.ledger.values import utcnow
from tests.api.dashboard.browser import Browser, browse, browse_as
from tests.api.dashboard.rows import inserted
from tests.installation import Installation
from tests.servers import MySQLServer, RedisServer, poll


def page(browser: Browser, **query: str) -> str:
    return " ".join(browser.get(**query).html.split())


def problems(browser: Browser) -> str:
    found = re.search(r'<(div|p) class="notice.*?</\1>', page(browser))
    assert found is not None
    return found[0]


def ended(service: Installation, count: int, **more: Any) -> None:
    at = utcnow() - dt.timedelta(seconds=90)
    row = {"state": "succeeded", "owner": "shop", "queue": "default", "priority": "low", "attempts": 1}
    inserted(service, count, **(row | {"created_at": at, "started_at": at, "finished_at": at} | more))


def count(service: Installation) -> None:
    rolled = Rollup(service.runtime.database)
    while rolled.advance():
        pass


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


def test_without_redis_the_page_has_the_ledgers_part(
    make_installation: Callable[..., Installation], own_redis: RedisServer
) -> None:
    service = make_installation(redis_url=own_redis.url)
    service.start_api()
    browser = browse(service)
    ended(service, 7)
    count(service)
    own_redis.kill()
    assert "Redis does not answer" in problems(browser)
    assert "In this range: 7 accepted" in page(browser)
    own_redis.start()
    poll(lambda: "Redis does not answer" not in problems(browser))
    own_redis.pause()  # it takes connections and answers nothing
    began = time.monotonic()
    assert "Redis" in problems(browser)
    assert time.monotonic() - began < 10
    own_redis.resume()


def test_without_the_database_the_page_has_the_part_of_redis(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer
) -> None:
    service = make_installation(own_mysql.create_database("overview"))
    service.start_api()
    own_mysql.stop()
    html = page(browse(service))
    assert "The database does not answer: what it knows is missing here." in html
    assert "All is well." not in html and '<a href="/dashboard/queues/default">default</a>' in html
    assert "see docs/runbook.md, The database is down" in html
