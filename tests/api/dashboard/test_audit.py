"""The audit log's page: filtered, page by page, and never a reading of everything."""

from __future__ import annotations

import datetime as dt
import functools
import re
import time

from sytq.ledger.audit import Audit, AuditFilter
from sytq.ledger.database import execute_many, marks, transact
from sytq.ledger.values import utcnow
from tests.api.dashboard.browser import Page, browse_as, log_in
from tests.installation import Installation


@functools.cache
def written(guarded: Installation) -> dt.datetime:
    """60,000 entries, one a second up to now, of which two are of Zoe; the time of the first."""
    start = utcnow() - dt.timedelta(seconds=60_000)
    rows = [(start + dt.timedelta(seconds=n), "robot", "POST", f"/v2/tasks/{n}/retry", None) for n in range(60_000)]
    rows[5] = (rows[5][0], "Zoe (abc)", "key.revoke", "0123456789ab", "50% <script>alert(1)</script> \u202e")
    rows[50_000] = (rows[50_000][0], "Zoe (abc)", "POST", "/v2/dead", None)
    database = guarded.runtime.database
    sql = f"INSERT INTO sytq_audit (at, who, what, about, detail) VALUES ({marks(database, 5)})"
    transact(database, lambda: execute_many(database, sql, rows))
    return start


def shown(guarded: Installation, **asked: str) -> str:
    return log_in(guarded).get("/audit", **asked).html


def pages(guarded: Installation, wanted: AuditFilter, limit: int = 100) -> list[list[str]]:
    """The `about` of every page, to the last."""
    audit, found, before = Audit(guarded.runtime.database), [], None
    while True:
        page = audit.page(wanted, limit=limit, before=before)
        found.append([entry.about for entry in page.entries])
        if page.next is None:
            return found
        assert before is None or page.next < before
        before = page.next


def test_a_rare_entry_is_found_page_by_page_each_in_little_time(guarded: Installation) -> None:
    written(guarded)
    since = time.perf_counter()
    found = pages(guarded, AuditFilter(who="zoe"))
    assert [about for page in found for about in page] == ["/v2/dead", "0123456789ab"]
    assert len(found) <= 5
    assert time.perf_counter() - since < 2


def test_every_entry_is_on_one_page_alone(guarded: Installation) -> None:
    start = written(guarded)
    wanted = AuditFilter(
        about="/retry", since=start + dt.timedelta(seconds=100), until=start + dt.timedelta(seconds=905)
    )
    found = [about for page in pages(guarded, wanted) for about in page]
    assert found == [f"/v2/tasks/{n}/retry" for n in range(904, 99, -1)]


def test_wildcards_are_letters(guarded: Installation) -> None:
    written(guarded)
    assert not [about for page in pages(guarded, AuditFilter(about="%retr_")) for about in page]


def test_the_page_filters_and_leads_to_older_entries(guarded: Installation) -> None:
    written(guarded)
    html = shown(guarded, who="Zoe", what="")
    assert "/v2/dead" in html and "Searched back to" in html
    link = re.search(r'href="/dashboard/audit\?(before=\d+[^"]*)"', html)
    assert link is not None and "who=Zoe" in link[1]
    browser = log_in(guarded)
    for _ in range(5):
        html = browser.get(f"/audit?{link[1].replace('&amp;', '&')}").html
        link = re.search(r'href="/dashboard/audit\?(before=\d+[^"]*)"', html) or link
        if "key.revoke" in html:
            break
    assert "&lt;script&gt;" in html and "<script>alert" not in html


def test_a_period_that_is_none_is_said_beside_its_field(guarded: Installation) -> None:
    html = shown(guarded, since="yesterday", until="2026-13-01")
    assert html.count('aria-invalid="true"') == 2 and "&#39;yesterday&#39; is not valid" in html
    assert "No entry matches." in shown(guarded, until="2001-01-01")
    assert "No entry matches." in shown(guarded, since="2100-01-01T00:00:00Z")


def test_a_login_is_in_the_log_and_no_secret(guarded: Installation) -> None:
    html = shown(guarded, what="session.begin", since="1h")
    assert "session.begin" in html and "127.0.0.1" in html and "pa55" not in html


def test_a_secret_in_a_query_is_masked_in_the_log(guarded: Installation) -> None:
    browser = log_in(guarded)
    form = browser.open("/dashboard/tasks?q=payload.token:hunter2").form("/tasks/views")
    assert browser.submit(form, name="mine").status == 200
    [entry] = Audit(guarded.runtime.database).latest(1)
    assert (entry.what, entry.about, entry.detail) == ("view.save", "mine", "payload.token:***")


def test_only_admins_read_it(guarded: Installation) -> None:
    log_in(guarded, "read", "operate", "submit").get("/audit", 403)


def test_the_api_has_the_same_entries(guarded: Installation) -> None:
    written(guarded)
    admin = browse_as(guarded, "boss", "admin")

    def asked(query: str) -> Page:
        return admin.request("GET", f"/v2/audit?{query}", Accept="*/*")

    page = asked("who=Zoe&limit=1").json
    assert [entry["about"] for entry in page["entries"]] == ["/v2/dead"]
    abouts = []
    while page["next"] is not None:
        page = asked(f"who=Zoe&limit=1&cursor={page['next']}").json
        abouts += [entry["about"] for entry in page["entries"]]
    assert abouts == ["0123456789ab"]
    assert asked("since=yesterday").json["errors"][0]["field"] == "since"
    assert asked("whom=x").status == 400
    assert browse_as(guarded, "reader", "read").request("GET", "/v2/audit").status == 403
