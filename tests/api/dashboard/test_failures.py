"""Failures by cause, on the page, in the API and on the command line."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sytq.ledger.failures import FailureRollup
from sytq.ledger.values import utcnow
from tests.api.dashboard.browser import browse_as
from tests.api.dashboard.rows import inserted
from tests.cli.shell import found, run
from tests.installation import Installation

EVIL = "<script>alert('x')</script> \u202e\u05d0"


def dead(guarded: Installation, count: int, name: str, mark: str, **more: Any) -> None:
    row = {"type": name, "owner": "shop", "error": f"{mark}: {EVIL}", "error_fingerprint": mark}
    inserted(guarded, count, **({"finished_at": utcnow() - dt.timedelta(minutes=1)} | row | more))


def counted(guarded: Installation) -> None:
    rolled = FailureRollup(guarded.runtime.database)
    while rolled.advance():
        pass


def test_bars_of_a_trend_stand_at_their_time(guarded: Installation) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    now = utcnow()
    for minutes in (50, 1):
        dead(guarded, 1, name, f"{name}a", finished_at=now - dt.timedelta(minutes=minutes))
    counted(guarded)
    html = browse_as(guarded, "ops", "read", "admin").get(f"/failures?type={name}&period=hour").html
    (width,) = re.findall(r'<svg class="bars"[^>]* width="(\d+)"', html)
    first, last = (int(x) for x in re.findall(r'<rect x="(\d+)"', html))
    bar = 4  # of ten minutes each, of which the last ends now
    assert int(width) - 2 * bar <= last < int(width) and 4 * bar <= last - first <= 5 * bar


def test_5000_failures_are_3_rows_that_lead_to_their_tasks(guarded: Installation) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    for count, mark in ((3000, "a"), (1990, "b"), (10, "c")):
        dead(guarded, count, name, name + mark)
    dead(guarded, 2, name, name + "d", state="retrying", finished_at=None, started_at=utcnow())
    counted(guarded)
    admin = browse_as(guarded, "ops", "read", "operate", "admin")
    html = admin.get(f"/failures?type={name}&period=hour").html
    assert "5,000 dead tasks, 3 causes." in html
    assert html.count("Retry all") == 3 and html.count("Cancel all") == 1
    assert "<script>alert" not in html and html.count("&lt;script&gt;") >= 4
    retry = re.findall(r'href="([^"]*/operations/new[^"]*)"', html)[0]
    query = parse_qs(urlsplit(unescape(retry)).query)
    listed = admin.request("GET", f"/v2/failures?period=hour&type={name}").json
    assert [cause["tasks"] for cause in listed["failures"]] == [3000, 1990, 10]
    assert query == {"action": ["retry"], "q": [listed["failures"][0]["q"]]}
    assert [cause["tasks"] for cause in listed["retrying"]] == [2]
    for cause in listed["failures"] + listed["retrying"]:  # each query selects what it says
        action = "cancel" if "retrying" in cause["q"] else "retry"
        body = {"action": action, "q": cause["q"], "dry_run": True}
        assert guarded.request("POST", "/v2/operations", body, admin.headers).json["matched"] == cause["tasks"]
    assert sum(point["tasks"] for point in listed["failures"][0]["trend"]) == 3000


def test_type_that_is_no_name_is_refused_by_page_and_api(guarded: Installation) -> None:
    admin = browse_as(guarded, "ops", "read", "admin")
    for path in ("/v2/failures", "/dashboard/failures"):
        reply = admin.request("GET", f"{path}?type=%C3%B0%20x")
        assert reply.status == 400 and b"is not a type" in reply.body


def test_another_owners_failures_do_not_exist_for_a_caller(guarded: Installation) -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    dead(guarded, 3, name, name + "a")
    dead(guarded, 4, name, name + "a", owner="crm")
    dead(guarded, 5, name, name + "b", owner="crm")
    counted(guarded)
    shop = browse_as(guarded, "shop", "read")
    html = shop.get(f"/failures?type={name}").html
    assert "3 dead tasks, 1 cause." in html and name + "b" not in html
    assert "Retry all" not in html  # a viewer
    listed = shop.request("GET", f"/v2/failures?type={name}").json
    assert [cause["tasks"] for cause in listed["failures"]] == [3]


def test_period_or_parameter_that_does_not_exist_is_a_400(guarded: Installation) -> None:
    shop = browse_as(guarded, "shop", "read")
    for path in ("/v2/failures", "/dashboard/failures"):
        reply = shop.request("GET", f"{path}?period=year")
        assert reply.status == 400 and b"hour, day, week, all" in reply.body
        assert shop.request("GET", f"{path}?since=1").status == 400
    assert "No dead task in this period." in shop.get("/failures?type=nothing").html


def test_command_prints_each_cause_with_its_query(guarded: Installation) -> None:
    mark = f"m{uuid.uuid4().hex[:8]}"
    dead(guarded, 3, "default", mark)
    counted(guarded)
    shown = run(guarded, "failures", "--type", "default").stdout
    assert f"fingerprint:{mark}" in shown
    assert mark in [cause["fingerprint"] for cause in found(guarded, "failures", "--period", "all")["failures"]]
