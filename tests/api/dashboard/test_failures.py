"""Failures by cause, on the page, in the API and on the command line."""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
import uuid
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sytq.ids import new_id
from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.database import transact
from sytq.ledger.failures import FailureRollup
from sytq.ledger.models import MODELS, Task
from sytq.ledger.values import utcnow
from tests.cli.shell import found, run
from tests.installation import ENGINES, Installation

BROWSER = {"accept": "text/html"}
EVIL = "<script>alert('x')</script> \u202e\u05d0"


@pytest.fixture(params=ENGINES)
def service(request: pytest.FixtureRequest, start_shared: Callable[..., Installation]) -> Installation:
    """The API with auth."""
    mysql = request.getfixturevalue("mysql_server") if request.param == "mysql" else None
    made = start_shared(f"auth-{request.param}", mysql, SYTQ_AUTH__ENABLED="true")
    made.runtime.database.bind(MODELS)  # to this engine again
    return made


@functools.cache
def key(service: Installation, owner: str, *scopes: str) -> dict[str, str]:
    _, text = ApiKeys(service.runtime.database).create("test", owner, Grant(scopes=frozenset(scopes)), by="test")
    return BROWSER | {"authorization": f"Bearer {text}"}


def dead(service: Installation, count: int, name: str, mark: str, **more: Any) -> None:
    at = utcnow() - dt.timedelta(minutes=1)
    row = {"type": name, "owner": "shop", "payload": "{}", "state": "dead", "created_at": at, "finished_at": at}
    row |= {"error": f"{mark}: {EVIL}", "error_fingerprint": mark} | more
    rows = [row | {"id": new_id()} for _ in range(count)]
    for part in range(0, count, 500):
        transact(service.runtime.database, Task.insert_many(rows[part : part + 500]).execute)


def counted(service: Installation) -> None:
    rolled = FailureRollup(service.runtime.database)
    while rolled.advance():
        pass


def page(service: Installation, headers: dict[str, str], query: str) -> str:
    reply = service.request("GET", f"/dashboard/failures?{query}", headers=headers)
    assert reply.status == 200, reply
    return reply.body.decode()


def test_bars_of_a_trend_stand_at_their_time(service: Installation) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    now = utcnow()
    for minutes in (50, 1):
        dead(service, 1, name, f"{name}a", finished_at=now - dt.timedelta(minutes=minutes))
    counted(service)
    html = page(service, key(service, "ops", "read", "admin"), f"type={name}&period=hour")
    (width,) = re.findall(r'<svg class="bars"[^>]* width="(\d+)"', html)
    first, last = (int(x) for x in re.findall(r'<rect x="(\d+)"', html))
    bar = 4  # of ten minutes each, of which the last ends now
    assert int(width) - 2 * bar <= last < int(width) and 4 * bar <= last - first <= 5 * bar


def test_5000_failures_are_3_rows_that_lead_to_their_tasks(service: Installation) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    for count, mark in ((3000, "a"), (1990, "b"), (10, "c")):
        dead(service, count, name, name + mark)
    dead(service, 2, name, name + "d", state="retrying", finished_at=None, started_at=utcnow())
    counted(service)
    admin = key(service, "ops", "read", "operate", "admin")
    html = page(service, admin, f"type={name}&period=hour")
    assert "5,000 dead tasks, 3 causes." in html
    assert html.count("Retry all") == 3 and html.count("Cancel all") == 1
    assert "<script>alert" not in html and html.count("&lt;script&gt;") >= 4
    retry = re.findall(r'href="([^"]*/operations/new[^"]*)"', html)[0]
    query = parse_qs(urlsplit(unescape(retry)).query)
    listed = service.request("GET", f"/v2/failures?period=hour&type={name}", headers=admin).json
    assert [cause["tasks"] for cause in listed["failures"]] == [3000, 1990, 10]
    assert query == {"action": ["retry"], "q": [listed["failures"][0]["q"]]}
    assert [cause["tasks"] for cause in listed["retrying"]] == [2]
    for cause in listed["failures"] + listed["retrying"]:  # each query selects what it says
        body = json.dumps(
            {"action": "cancel" if "retrying" in cause["q"] else "retry", "q": cause["q"], "dry_run": True}
        )
        headers = admin | {"content-type": "application/json"}
        assert service.request("POST", "/v2/operations", body.encode(), headers).json["matched"] == cause["tasks"]
    assert sum(point["tasks"] for point in listed["failures"][0]["trend"]) == 3000


def test_type_that_is_no_name_is_refused_by_page_and_api(service: Installation) -> None:
    admin = key(service, "ops", "read", "admin")
    for path in ("/v2/failures", "/dashboard/failures"):
        reply = service.request("GET", f"{path}?type=%C3%B0%20x", headers=admin)
        assert reply.status == 400 and b"is not a type" in reply.body


def test_another_owners_failures_do_not_exist_for_a_caller(service: Installation) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    dead(service, 3, name, name + "a")
    dead(service, 4, name, name + "a", owner="crm")
    dead(service, 5, name, name + "b", owner="crm")
    counted(service)
    shop = key(service, "shop", "read")
    html = page(service, shop, f"type={name}")
    assert "3 dead tasks, 1 cause." in html and name + "b" not in html
    assert "Retry all" not in html  # a viewer
    listed = service.request("GET", f"/v2/failures?type={name}", headers=shop).json
    assert [cause["tasks"] for cause in listed["failures"]] == [3]


def test_period_or_parameter_that_does_not_exist_is_a_400(service: Installation) -> None:
    headers = key(service, "shop", "read")
    for path in ("/v2/failures", "/dashboard/failures"):
        reply = service.request("GET", f"{path}?period=year", headers=headers)
        assert reply.status == 400 and b"hour, day, week, all" in reply.body
        assert service.request("GET", f"{path}?since=1", headers=headers).status == 400
    assert "No dead task in this period." in page(service, headers, "type=nothing")


def test_command_prints_each_cause_with_its_query(service: Installation) -> None:
    name = "default"
    mark = f"m{uuid.uuid4().hex[:8]}"
    dead(service, 3, name, mark)
    counted(service)
    shown = run(service, "failures", "--type", name).stdout
    assert f"fingerprint:{mark}" in shown
    assert mark in [cause["fingerprint"] for cause in found(service, "failures", "--period", "all")["failures"]]
