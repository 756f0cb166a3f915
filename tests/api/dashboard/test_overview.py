"""The overview: whether all is well at a glance, charts of the ledger, and what is left of it without a store."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sytq.ids import new_id
from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.database import transact
from sytq.ledger.models import MODELS, Task
from sytq.ledger.rollup import Rollup
from sytq.ledger.values import utcnow
from tests.installation import Installation
from tests.servers import MySQLServer, RedisServer, poll

BROWSER = {"accept": "text/html"}


def page(service: Installation, query: str = "", headers: dict[str, str] | None = None) -> str:
    reply = service.request("GET", f"/dashboard?{query}", headers=headers or BROWSER)
    assert reply.status == 200, reply
    return " ".join(reply.body.decode().split())


def problems(service: Installation) -> str:
    found = re.search(r'<(div|p) class="notice.*?</\1>', page(service))
    assert found is not None
    return found[0]


def ended(service: Installation, count: int, **more: Any) -> None:
    at = utcnow() - dt.timedelta(seconds=90)
    row = {"type": "default", "owner": "shop", "queue": "default", "priority": "low", "payload": "{}"}
    row |= {"state": "succeeded", "created_at": at, "started_at": at, "finished_at": at, "attempts": 1} | more
    service.runtime.database.bind(MODELS)
    rows = [row | {"id": new_id()} for _ in range(count)]
    transact(service.runtime.database, Task.insert_many(rows).execute)


def count(service: Installation) -> None:
    rolled = Rollup(service.runtime.database)
    while rolled.advance():
        pass


def test_a_worker_counts_for_the_charts_and_all_is_well(make_installation: Callable[..., Installation]) -> None:
    service = make_installation(SYTQ_AUTH__ENABLED="true")
    service.start_api()
    keys = ApiKeys(service.runtime.database)
    admin, crm = (
        BROWSER
        | {"authorization": f"Bearer {keys.create('test', owner, Grant(scopes=frozenset(scopes)), by='test')[1]}"}
        for owner, scopes in (("ops", ["read", "admin"]), ("crm", ["read"]))
    )
    assert "no worker is alive: tasks are accepted and wait" in page(service, headers=admin)
    assert '<a href="/dashboard/workers">no worker is alive' in page(service, headers=admin)
    ended(service, 30)
    ended(service, 20, owner="crm", queue=None, priority=None)
    service.start_worker()
    poll(lambda: "In this range: 50 accepted, 50 succeeded" in page(service, headers=admin))
    assert "All is well." in page(service, headers=admin)
    html = page(service, "range=week&type=default", headers=admin)
    assert "Tasks per hour" in html and "In this range: 50 accepted" in html
    low, normal = (
        re.search(rf"<tr> <th[^>]*><a[^>]*>default</a></th> <td>{name}</td>.*?</tr>", html)
        for name in ("low", "normal")
    )
    assert low and normal and low[0].count(">6</td>") == 2 and normal[0].count(">4</td>") == 2  # in and out a minute
    assert "In this range: 20 accepted" in page(service, headers=crm)  # another owner's tasks do not exist
    assert "In this range: 0 accepted" in page(service, "type=webhook", headers=admin)
    assert service.request("GET", "/dashboard?range=year", headers=admin).status == 400


def test_without_redis_the_page_has_the_ledgers_part(
    make_installation: Callable[..., Installation], own_redis: RedisServer
) -> None:
    service = make_installation(redis_url=own_redis.url)
    service.start_api()
    ended(service, 7)
    count(service)
    own_redis.kill()
    assert "Redis does not answer" in problems(service)
    assert "In this range: 7 accepted" in page(service)
    own_redis.start()
    poll(lambda: "Redis does not answer" not in problems(service))
    own_redis.pause()  # it takes connections and answers nothing
    began = time.monotonic()
    assert "Redis" in problems(service)
    assert time.monotonic() - began < 10
    own_redis.resume()


def test_without_the_database_the_page_has_the_part_of_redis(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer, tmp_path: Path
) -> None:
    service = make_installation(own_mysql.create_database("overview"))
    service.start_api()
    own_mysql.stop()
    html = page(service)
    assert "The database does not answer: what it knows is missing here." in html
    assert "All is well." not in html and '<a href="/dashboard/queues/default">default</a>' in html
    assert "see docs/runbook.md, The database is down" in html
